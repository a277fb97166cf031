"""Carry a Hugging Face checkpoint to a quantized, served, judged and promoted release."""
