"""Arithmetic of narrow formats in torch, for every room that rounds to them or reads them back."""
