"""Choose each layer's format by what it costs the output: ModelOpt's search, on our batches."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization import algorithms
from torch import Tensor, nn
from torch.nn import functional

from builders.checkpoint import Checkpoint
from builders.quantize import emulation, loading
from builders.quantize.configuration import KV_PRESETS, exclusions, formats
from builders.quantize.loop import Loop, forward, without_bars
from builders.recipe import Recipe

_SCORED: Final = 16  # batches that the search scores, of all that calibrate
Batch = Sequence[Sequence[int]]


def mix(model: nn.Module, checkpoint: Checkpoint, recipe: Recipe, loop: Loop) -> None:
    """Give every layer the format of the mixture that harms least within the recipe's bits.

    Layers that runtimes fuse take one format. The score is ModelOpt's own: the squared error of a
    layer's output, weighted by the gradient of the loss. Bits count over the layers that may be
    quantized, scales included.
    """
    kept = [entry["quantizer_name"].removesuffix(".*") for entry in exclusions(recipe, checkpoint)]
    kept += [f"{glob}.*" for glob in kept]
    cost = {"excluded_module_name_patterns": kept}
    candidates = [emulation.where_needed(one, loading.device()) for one in formats(recipe)]
    with torch.enable_grad(), without_bars(algorithms):
        mtq.auto_quantize(
            model,
            constraints={"effective_bits": recipe.bits, "cost": cost},
            quantization_formats=candidates,
            data_loader=_Told(loop),
            forward_step=forward,
            loss_func=_loss,
            disabled_layers=kept,
            num_calib_steps=len(loop.batches),
            num_score_steps=min(_SCORED, len(loop.batches)),
        )
    model.requires_grad_(requires_grad=False)
    if recipe.kv_scales:
        _calibrate_kv_cache(model, recipe, loop)


class _Told:
    """The batches as ModelOpt wants them: an iterable that it walks through several times."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._walks = 0

    def __iter__(self) -> Iterator[Batch]:
        self._walks += 1
        yield from self._loop.walk(f"search, pass {self._walks}")


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    targets = torch.tensor(batch, device=logits.device)[:, 1:]
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten())


def _calibrate_kv_cache(model: nn.Module, recipe: Recipe, loop: Loop) -> None:
    """Set the scales of the KV cache alone, behind layers that are rounded already."""
    cache: list[dict[str, Any]] = copy.deepcopy(
        getattr(mtq, KV_PRESETS[recipe.kv_cache])["quant_cfg"]
    )
    emulation.where_needed({"quant_cfg": cache}, loading.device())
    mtq.set_quantizer_by_cfg(model, cache)
    alone = [{"quantizer_name": "*", "enable": False}, *cache]
    with mtq.set_quantizer_by_cfg_context(model, alone):
        mtq.calibrate(model, algorithm="max", forward_loop=loop.run)
