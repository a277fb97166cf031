"""Environments that are ready without a download: their Python is the one that runs the tests."""

import os
import sys
from pathlib import Path

import pytest

from builders.environment import Environment
from builders.home import Home


def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "gptq") -> Path:
    """Make a home whose environment ``name`` is ready, let it be the one in use, and return it."""
    home = tmp_path / "home"
    monkeypatch.setenv("ENGINESMITH_HOME", str(home))
    made = Environment.find(name, Home.find(tmp_path, os.environ))
    made.python.parent.mkdir(parents=True)
    made.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    made.python.chmod(0o755)
    (made.root / ".enginesmith").write_text(made.requirements.digest)
    assert made.state == "ready"
    return home
