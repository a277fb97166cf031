"""Triton loads this file; the work is done in the installed package."""

from builders.engine.embedded.triton_backend import TritonPythonModel  # noqa: F401
