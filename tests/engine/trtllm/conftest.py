"""The stand-in programs, first on the path."""

import os
import sys
from pathlib import Path

import pytest

BIN = Path(__file__).parents[2] / "fakes" / "trtllm" / "bin"


@pytest.fixture
def trtllm(monkeypatch):
    """Put trtllm-build and mpirun on the path; returns the setter of their environment."""
    own = Path(sys.executable).parent
    monkeypatch.setenv("PATH", os.pathsep.join((str(BIN), str(own), os.environ["PATH"])))
    return monkeypatch.setenv
