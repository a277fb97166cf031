"""A command run as if nothing but the base install were there: heavy libraries are hidden."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "modelopt", "numpy", "scipy", "lm_eval", "datasets",
         "tritonclient", "safetensors", "huggingface_hub", "pyarrow")  # fmt: skip
BARE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from builders.cli import run
sys.exit(run(sys.argv[1:]))
"""


def bare(*arguments, code=0):
    """Run a command as if nothing but the base install were there."""
    command = [sys.executable, "-c", BARE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr
