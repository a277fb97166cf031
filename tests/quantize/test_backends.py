"""Backends are loaded by name; what is missing is said in one line, what is not needed left out."""

import os
import subprocess
import sys

import pytest

from builders.errors import ToolError, UsageError
from builders.quantize.backends import BACKENDS, load


def test_an_unknown_backend_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="unknown quantizer 'modelop'") as caught:
        load("modelop")
    assert caught.value.hint == "did you mean modelopt?"


def test_a_library_that_is_not_installed_is_said_with_the_line_that_mends_it(monkeypatch):
    monkeypatch.delitem(sys.modules, BACKENDS["modelopt"], raising=False)
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    with pytest.raises(ToolError, match="modelopt cannot be loaded") as caught:
        load("modelopt")
    assert "pip install" in caught.value.hint


def test_what_modelopt_would_import_for_others_is_left_out(tmp_path):
    """Installed beside it they cost seconds, and a broken one would break the import."""
    trap = tmp_path / "vllm" / "__init__.py"
    trap.parent.mkdir()
    trap.write_text("raise RuntimeError('vLLM was imported')\n")
    code = (
        "import gc, sys\n"
        "from builders.quantize.backends import load\n"
        "load('modelopt')\n"
        "assert gc.isenabled()\n"
        "assert not {'vllm', 'sklearn', 'datasets', 'hqq', 'peft'} & set(sys.modules)\n"
        "import sklearn.metrics\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
