"""Pinned requirements of the environments made on demand, and the programs that run in them."""
