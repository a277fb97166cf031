"""Which exports the tests on a GPU make, and of what text."""

import os
from pathlib import Path

from fakes.checkpoints import DEMO

HERE = Path(__file__).parent
CORPUS = DEMO.parent / "data" / "corpus.jsonl"
# Name of an export: the recipe, and its KV cache where the recipe's own is changed.
EXPORTS = {
    "fp8": ("fp8", "fp8"),
    "fp8, kv none": ("fp8", "bf16"),
    "nvfp4": ("nvfp4", "fp8"),
    "nvfp4, kv none": ("nvfp4", "bf16"),
    "mxfp8": ("mxfp8", "bf16"),
    "fp8_per_token": ("fp8_per_token", "bf16"),
    "fp8_block": ("fp8_block", "bf16"),
    "w4a16_nvfp4": ("w4a16_nvfp4", "bf16"),
    "int4_awq": ("int4_awq", "bf16"),
    "int8_smoothquant": ("int8_smoothquant", "bf16"),
}
# Exports made before, in folders named by `folder`, are taken instead; the others only from there,
# because their quantizer needs an environment of its own.
MADE = Path(os.environ.get("GPU_EXPORTS", "nowhere"))
OTHERS = ("awq_int4", "gptq_int4")
ALL = ("unquantized", *EXPORTS, *OTHERS)
WINDOWS, LENGTH, PROMPT, ANSWER = 64, 512, 32, 64


def folder(name):
    """Return the name of the folder of an export."""
    return name.replace(", ", "-").replace(" ", "-")
