"""Quantize with AWQ, in the layout that vLLM and transformers load (GEMM, with zero points).

Channels that large activations meet are scaled up before the rounding, and the scale is folded into
what lies before them. ModelOpt's AWQ is another layout: vLLM refuses it, TensorRT-LLM takes it.
"""

import json
from pathlib import Path
from typing import Any

from builders import files
from builders.checkpoint import Checkpoint
from builders.progress import Progress
from builders.quantize import gptqmodel
from builders.quantize.calibration import Corpus
from builders.quantize.shapes import matrices, quantized
from builders.recipe import Recipe


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    progress: Progress,
) -> None:
    """Calibrate and round in the environment ``gptq``; name what was left alone, as readers expect.

    GPTQModel says it in words of its own (``dynamic``), which AWQ's readers do not look for.
    """
    gptqmodel.quantize(checkpoint, recipe, corpus, out, progress, {"method": "awq"})
    file = out / "config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    layers = quantized(checkpoint, recipe)
    kept = {name for name in matrices(checkpoint) if name not in layers and "embed" not in name}
    config["quantization_config"]["modules_to_not_convert"] = sorted(kept | {"lm_head"})
    files.write_atomic(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
