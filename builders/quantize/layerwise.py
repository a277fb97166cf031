"""Calibrate a model that is larger than memory: one decoder layer at a time, the others on disk.

ModelOpt's own layer-by-layer calibration over accelerate's offloading, and its streaming export.
The tensors are those of the model that is calibrated whole; a run that was killed goes on with the
layer where it was.
"""

import contextlib
from pathlib import Path
from typing import Any, Final

import modelopt.torch.quantization as mtq
import torch
from accelerate import init_empty_weights
from modelopt.torch.export import export_hf_checkpoint, unified_export_hf_streaming
from modelopt.torch.quantization import model_calib
from modelopt.torch.quantization.utils.layerwise_calib import LayerActivationCollector
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.progress import Progress
from builders.quantize import declaration, emulation, loading, modelopt, saving
from builders.quantize.calibration import Batches, Corpus, bucket
from builders.quantize.configuration import config
from builders.quantize.experts import Reached
from builders.quantize.loading import FAILURES, first_line
from builders.quantize.loop import TOKENS, Loop, forward, not_finite, without_bars
from builders.quantize.shapes import kept
from builders.recipe import Recipe

_SHARD: Final = "2GB"  # the largest part of the export that memory holds at once


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    scratch: Path,
    progress: Progress,
) -> None:
    """Fill ``out`` with an export; what is kept on disk meanwhile goes into ``scratch``."""
    assert corpus is not None  # without texts it would be streamed
    with modelopt.quiet(), torch.no_grad(), emulation.available(), without_bars(model_calib):
        model = _load(checkpoint, scratch, progress)
        rows = modelopt.rows(checkpoint, model, corpus)
        reached = Reached()
        loop = _Layers(bucket(rows, tokens=TOKENS), progress, layers=checkpoint.layers)
        with (
            modelopt.wrapped(f"ModelOpt could not quantize {checkpoint.path} by {recipe}"),
            reached.counted(model),
        ):
            chosen = emulation.where_needed(config(recipe, checkpoint), loading.device())
            chosen["algorithm"] = _layer_by_layer(chosen["algorithm"], scratch / "layers")
            loop.calibrate(model, chosen)
            modelopt.settle(model, recipe)
        modelopt.tell(reached, corpus, progress)
        progress("export", 0, 1)
        with modelopt.wrapped(f"ModelOpt could not export {recipe}"), modelopt.writing(out):
            with saving.taken_over(unified_export_hf_streaming, "save_file"):
                export_hf_checkpoint(model, export_dir=out, max_shard_size=_SHARD)
            declaration.complete(out, kept(checkpoint, recipe))
        progress("export", 1, 1)


def _load(checkpoint: Checkpoint, scratch: Path, progress: Progress) -> nn.Module:
    """Load what is no decoder layer; layers stay in their files until they are computed."""
    progress("load the checkpoint", 0, 1)
    loading.know(checkpoint)
    try:
        found, told = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            device_map=_places(checkpoint),
            offload_folder=scratch / "offloaded",
        )
    except (OSError, SafetensorError, *FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: transformers cannot load it: {first_line(error)}",
            hint="do config.json and the weights belong together?",
        ) from error
    loading.refuse_strangers(told, checkpoint)
    for name, weight in found.named_parameters():
        if not weight.is_meta:  # what lies on disk is met while activations are watched
            loading.refuse_damaged(checkpoint, name, weight)
    progress("load the checkpoint", 1, 1)
    loaded: nn.Module = found.eval()
    return loaded


def _places(checkpoint: Checkpoint) -> dict[str, str]:
    """Put decoder layers on disk and all other modules where is computed."""
    settings = AutoConfig.from_pretrained(
        checkpoint.path, local_files_only=True, trust_remote_code=False
    )
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    layers = LayerActivationCollector.get_decoder_layers(model)
    if not layers:
        raise ToolError(
            f"{checkpoint.path}: ModelOpt finds no decoder layers in {checkpoint.architecture}",
            hint="quantize it on a machine with more memory",
        )
    names = {id(part): name for name, part in model.named_modules()}
    found = {names[id(layer)]: "disk" for layer in layers}
    inside = tuple(f"{name}." for name in found)
    for name, part in model.named_modules():
        alone = not any(True for _ in part.children())
        if alone and not name.startswith(inside):
            found[name] = str(loading.device())
    return found


def _layer_by_layer(algorithm: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401 - ModelOpt's
    method = dict(algorithm) if isinstance(algorithm, dict) else {"method": algorithm or "max"}
    layerwise: dict[str, object] = {"enable": True, "checkpoint_dir": str(folder)}
    if method["method"] == "max":
        layerwise["calib_mutates_weights"] = False  # then nothing is written back to disk
    return method | {"layerwise": layerwise}


class _Layers(Loop):
    """Feeds the batches once for each layer; ModelOpt stops each forward at the layer."""

    def __init__(self, batches: Batches, progress: Progress, *, layers: int) -> None:
        super().__init__(batches, progress, forward)  # the model's own forward knows the stop
        self._total = layers
        self._tell = progress
        self._calls = 0
        self._watching = contextlib.ExitStack()

    def calibrate(self, model: nn.Module, chosen: dict[str, Any]) -> None:
        """Let ModelOpt calibrate, feeding what it replays itself too under our watch."""
        try:
            with self._watching:
                mtq.quantize(model, chosen, self.run)
        except AssertionError as error:  # its calibrator met NaN or infinity
            raise not_finite(self.at) from error

    def run(self, model: nn.Module) -> None:
        """Run every batch up to the layer that is calibrated."""
        self._tell("calibrate layer by layer", self._calls, self._total, unit="layers")
        if not self._calls:
            self._watching.enter_context(self.watched(model))
        self._calls += 1
        for batch in self.batches:
            self.feed(model, batch)
        self._tell("calibrate layer by layer", self._calls, self._total, unit="layers")
