"""Quantize the demo model as ``enginesmith quantize`` does, in a process of its own.

python tests/gpu/quantized.py RECIPE KV_CACHE OUT
"""

import sys
from dataclasses import replace
from pathlib import Path

from builders import recipe as recipes
from builders.checkpoint import Checkpoint
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration

DEMO = Path(__file__).parents[2] / "demo"


def main(name: str, kv_cache: str, out: str) -> None:
    """Quantize with the calibration of the demo."""
    recipe = replace(recipes.find(name, beside=Path.cwd()), kv_cache=Format(kv_cache))
    calibration = Calibration(files=(DEMO / "data" / "calibration.jsonl",), samples=256, length=256)
    Path(out).mkdir(parents=True)
    quantize(Checkpoint.open(DEMO / "model"), recipe, calibration, Path(out), silent)


if __name__ == "__main__":
    main(*sys.argv[1:])
