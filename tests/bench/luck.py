"""How far perplexity moves by choices of rounding that nobody would call a difference.

    python tests/bench/luck.py

Quantizes the demo model by `w4a16_nvfp4` with other ways out of a tie and with scales of a tensor
that are a little larger or smaller, and holds each against ours: 60 windows of 512 tokens, paired
by window. Two programs of the same scheme differ in such choices, so a gap between them means
something only where it is larger than these. Prints a Markdown table.
"""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from peer import _against, scored
from recipes import DEMO

from builders.checkpoint import Checkpoint
from builders.numerics import packing
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, shipped

TIES = {
    "up": tuple((bound, torch.ge) for bound in packing._MIDDLE),
    "down": tuple((bound, torch.gt) for bound in packing._MIDDLE),
    "to even": packing._TIES_TO_EVEN,
}
# How ties are rounded, and the scale of a tensor as a multiple of ours. Below 1 the largest values
# are cut.
CHOICES = [
    *((ties, 1.0) for ties in ("down", "up")),
    *(("to even", scale) for scale in (0.98, 0.985, 0.99, 0.995, 1.005, 1.01, 1.015, 1.02)),
]


@contextmanager
def rounded(ties, scale):
    kept, ties_kept = packing.nvfp4, packing._TIES_TO_EVEN
    packing.nvfp4 = lambda weight, largest: kept(weight, largest.float() * scale)
    packing._TIES_TO_EVEN = TIES[ties]
    try:
        yield
    finally:
        packing.nvfp4, packing._TIES_TO_EVEN = kept, ties_kept


def score(folder):
    out = folder / "export"
    out.mkdir(parents=True)
    recipe, source = shipped()["w4a16_nvfp4"], Checkpoint.open(DEMO / "model")
    quantize(source, recipe, Calibration(files=()), out, silent)
    return scored(out, folder / "engine")


def main():
    with tempfile.TemporaryDirectory() as folder:
        ours = score(Path(folder, "ours"))
        print("| ties | scale of a tensor | against ours |\n| --- | ---: | ---: |")
        for number, (ties, scale) in enumerate(CHOICES):
            with rounded(ties, scale):
                found = score(Path(folder, str(number)))
            print(f"| {ties} | × {scale} | {_against(found, ours)} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
