"""A stand-in for the importable part of TensorRT-LLM that waiting ranks use."""
