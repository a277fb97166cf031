"""Quantize without a model: tensors are read, rounded and written one after the other.

For recipes that look at the weights alone. Memory holds a few tensors, whatever the model's size;
a run that was killed goes on where it was; the bytes are those of ModelOpt's own export.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor
from transformers import AutoConfig

from builders import files
from builders.autopsy.layers import FUSED
from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.numerics import packing
from builders.numerics.packing import Pack, Parts
from builders.progress import Progress
from builders.quantize import declaration, expected, loading
from builders.quantize.calibration import Corpus
from builders.quantize.octets import DTYPES, planned
from builders.quantize.overlap import Behind, prepared
from builders.quantize.placing import Planned
from builders.quantize.shapes import quantized
from builders.quantize.shards import Shards
from builders.quantize.staging import Inward
from builders.recipe import Recipe

Packer = Callable[[Tensor, Tensor], Parts]


@dataclass(frozen=True, slots=True)
class Way:
    """How a preset packs a matrix, given the largest value of those it shares a scale with.

    ``told`` is what its export declares beside the algorithm's name; ``scaled`` says that a scale
    of zero is an error, as it is where ModelOpt sets one.
    """

    algorithm: str
    pack: Packer
    told: Mapping[str, object]
    scaled: bool = True


def _alone(pack: Pack) -> Packer:
    return lambda weight, _: packing.by_rows(pack)(weight)


def _nvfp4(weight: Tensor, largest: Tensor) -> Parts:
    return packing.by_rows(lambda rows: packing.nvfp4(rows, largest))(weight)


WAYS: Final[Mapping[str, Way]] = {
    "FP8_PER_CHANNEL_PER_TOKEN_CFG": Way("FP8_PER_CHANNEL_PER_TOKEN", _alone(packing.fp8_rows), {}),
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG": Way(
        "fp8_pb_wo", lambda weight, _: packing.fp8_tiles(weight), {}
    ),
    "MXFP8_DEFAULT_CFG": Way("MXFP8", _alone(packing.mxfp8), {"group_size": 32}, scaled=False),
    "MXFP4_DEFAULT_CFG": Way("mxfp4", _alone(packing.mxfp4), {}, scaled=False),
    "W4A16_NVFP4_CFG": Way("W4A16_NVFP4", _nvfp4, {"group_size": 16}),
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG": Way(
        "W4A16_AWQ",
        _alone(packing.int4_groups),
        {"group_size": 128, "has_zero_point": False, "pre_quant_scale": False},
    ),
}
# ModelOpt repeats the settings of one of these algorithms in config.json.
_GROUPS: Final[Mapping[str, Mapping[str, object]]] = {
    "W4A16_NVFP4": {
        "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
        "targets": ["Linear"],
    }
}
_PRODUCER: Final = {"name": "modelopt", "version": "0.47.0"}  # whose layout this is
_HEAD: Final = "lm_head"


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    scratch: Path,
    progress: Progress,
) -> None:
    """Fill ``out`` with the export of a recipe that reads no texts; ``scratch`` is resumed from."""
    assert corpus is None  # activations need a model
    loading.know(checkpoint)
    names = expected.names(checkpoint)
    layers = quantized(checkpoint, recipe)
    way = WAYS[recipe.preset]
    tensors = list(_plan(checkpoint, names, layers, way))
    with (
        files.disk_errors(f"writing {out}"),
        Shards(scratch, tensors) as shards,
        _Weights(checkpoint) as weights,
    ):
        left = [task for task in _tasks(names, layers) if not shards.is_done(task[0])]
        total = sum(checkpoint.tensors[name].bytes for name in names)
        done = total - sum(checkpoint.tensors[name].bytes for task in left for name in task)
        progress("quantize", done, total, unit="bytes")
        with Behind() as writer:
            for task, read in prepared(left, weights.read):
                writer.do(shards.put, task[0], _made(read, layers, way, recipe))
                done += sum(checkpoint.tensors[name].bytes for name in task)
                progress("quantize", done, total, unit="bytes")
        shards.finish(out)
    _declare(checkpoint, recipe, layers, out)


def _plan(
    checkpoint: Checkpoint, names: Sequence[str], layers: Mapping[str, object], way: Way
) -> Iterator[Planned]:
    """Describe every tensor of the export, learnt from rounding tensors without data."""
    for name in names:
        info = checkpoint.tensors[name]
        empty = torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module in layers:
            for part, tensor in way.pack(empty, empty.abs().amax()).items():
                yield planned(f"{module}.{part}", tensor)
        else:
            yield planned(name, empty)


def _tasks(names: Sequence[str], layers: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    """Group what must be looked at together: matrices that runtimes fuse, else one by one."""
    known, seen = set(names), set[str]()
    for name in names:
        if name not in seen:
            task = _fellows(name, known, layers)
            seen.update(task)
            yield task


def _fellows(name: str, known: set[str], layers: Mapping[str, object]) -> tuple[str, ...]:
    parent, _, own = name.removesuffix(".weight").rpartition(".")
    for fused in FUSED:
        if own in fused and f"{parent}.{own}" in layers and name.endswith(".weight"):
            modules = [f"{parent}.{one}" for one in fused if f"{parent}.{one}" in layers]
            return tuple(f"{one}.weight" for one in modules if f"{one}.weight" in known)
    return (name,)


def _made(
    read: Mapping[str, Tensor], layers: Mapping[str, object], way: Way, recipe: Recipe
) -> dict[str, Tensor]:
    """Return what stands in the place of tensors that are looked at together."""
    rounded = [n for n in read if n.endswith(".weight") and n.removesuffix(".weight") in layers]
    made = {name: tensor for name, tensor in read.items() if name not in rounded}
    if not rounded:
        return made
    largest = torch.stack([read[name].abs().amax() for name in rounded]).amax()
    for name in rounded:
        module = name.removesuffix(".weight")
        parts = way.pack(read[name], largest)
        if way.scaled and not bool((_first_scale(parts) > 0).all()):
            raise ToolError(
                f"{module} has weights that are all zero where {recipe.name} needs a scale",
                hint="exclude this layer, or use a recipe with larger groups",
            )
        made |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    return made


def _first_scale(parts: Parts) -> Tensor:
    return parts.get("weight_scale_2", parts["weight_scale"]).float()


def _declare(
    checkpoint: Checkpoint, recipe: Recipe, layers: Mapping[str, object], out: Path
) -> None:
    way = WAYS[recipe.preset]
    modules = (
        n.removesuffix(".weight") for n, i in checkpoint.tensors.items() if len(i.shape) == 2
    )
    left = sorted({_HEAD, *(module for module in modules if module not in layers)})
    kept = declaration.excluded(left, layers)
    said = {"quant_algo": way.algorithm, "kv_cache_quant_algo": None, **way.told}
    beside = {"producer": _PRODUCER, "quantization": said | {"exclude_modules": kept}}
    files.write_atomic(out / declaration.BESIDE, json.dumps(beside, indent=4))
    inside: dict[str, object] = {}
    if way.algorithm in _GROUPS:
        inside["config_groups"] = {"group_0": _GROUPS[way.algorithm]}
    inside |= {"ignore": kept, "quant_algo": way.algorithm, "producer": _PRODUCER}
    config = AutoConfig.from_pretrained(
        checkpoint.path, local_files_only=True, trust_remote_code=False
    )
    resolved = json.loads(config.to_json_string(use_diff=False))
    resolved["quantization_config"] = inside | {"quant_method": "modelopt"}
    files.write_atomic(out / "config.json", json.dumps(resolved, indent=4))


class _Weights:
    """Reads the source's tensors, each when it is asked for; NaN and infinity are refused.

    Files are read, not mapped: mapped pages would stay in memory as long as the file is open.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._inward = Inward(loading.device())
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open.values():
            os.close(opened)
        self._open.clear()

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Read some tensors to where is computed: the first GPU, else the host's memory."""
        return {name: self._sound(name, self._read(name)) for name in names}

    def _read(self, name: str) -> Tensor:
        info = self._checkpoint.tensors[name]
        if info.file not in self._open:
            self._open[info.file] = os.open(self._checkpoint.path / info.file, os.O_RDONLY)
        bits = self._inward.read(self._open[info.file], info.begin, info.bytes)
        return bits.view(DTYPES[info.dtype]).reshape(info.shape)

    def _sound(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            loading.refuse_damaged(self._checkpoint, name, tensor)
        return tensor
