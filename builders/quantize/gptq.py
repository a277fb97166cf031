"""Quantize with GPTQ, in the layout that vLLM, TensorRT-LLM and transformers load.

Each column is rounded in turn, and what its rounding does to the layer's output is taken out of
the columns still to come. ``gptq_desc_act`` takes the columns that matter most first, which some
kernels pay for; ``gptq`` orders them within their groups only, which none does.
"""

from pathlib import Path

from builders.checkpoint import Checkpoint
from builders.progress import Progress
from builders.quantize import gptqmodel
from builders.quantize.calibration import Corpus
from builders.recipe import Recipe


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    progress: Progress,
) -> None:
    """Calibrate and round in the environment ``gptq``."""
    method = {"method": "gptq", "desc_act": recipe.preset == "gptq_desc_act"}
    gptqmodel.quantize(checkpoint, recipe, corpus, out, progress, method)
