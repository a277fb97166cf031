"""Pinned requirements of the environments in which vLLM runs."""
