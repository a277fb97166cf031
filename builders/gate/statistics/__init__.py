"""Bounds, their power and how many units they need; plain arithmetic that knows no gate."""
