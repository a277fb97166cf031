"""The command line starts without any heavy library, whatever is installed."""

import subprocess
import sys

import pytest

from builders.cli import COMMANDS

HEAVY = {
    "torch", "transformers", "tensorrt_llm", "modelopt", "vllm", "tritonclient", "lm_eval", "numpy",
    "scipy",
}  # fmt: skip
OTHERS = {"rich", "cryptography", "jinja2"}  # light, but the first help needs none of them


def loaded(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules, file=sys.stderr)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_help_imports_nothing_heavy():
    modules = loaded("from builders.cli import run; run(['--help'])")
    assert "click" in modules
    assert not (HEAVY | OTHERS) & modules


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_imports_no_torch(command):
    modules = loaded(f"from builders.cli import run; run([{command!r}, '--help'])")
    assert not HEAVY & modules
