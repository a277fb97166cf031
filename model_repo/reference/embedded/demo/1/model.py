"""Triton loads this file; the work is done in the installed package."""

import locale

# Triton's interpreter is isolated from the environment: it would read text files as ASCII.
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")

from builders.engine.embedded.triton_backend import TritonPythonModel  # noqa: E402, F401
