"""How a checkpoint's weights come out of a recipe and lie on tp × pp GPUs, byte by byte.

Read from safetensors headers only. What the recipe leaves alone keeps the dtype it is stored in.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Final

from builders.checkpoint import Checkpoint, TensorInfo
from builders.ledger import Algorithm, algorithm
from builders.recipe import Recipe

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Which side tensor parallelism cuts, by the module's own name: the outputs or the inputs. What is
# not here lies whole on every GPU (embeddings too, as compiled engines keep them by default).
_OUTPUTS: Final = frozenset({
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "gate_proj", "up_proj", "w1", "w3",
    "gate_up_proj", "fc1", "q_b_proj", "kv_b_proj", "lm_head", "output_layer",
})  # fmt: skip
_INPUTS: Final = frozenset({"o_proj", "down_proj", "w2", "fc2", "dense_4h_to_h", "out_proj"})
_KV: Final = frozenset({"k_proj", "v_proj"})
_VOCABULARY: Final = frozenset({"lm_head", "output_layer"})


@dataclass(frozen=True)
class Shards:
    """A checkpoint under a recipe on ``tp`` GPUs a layer and ``pp`` groups of layers."""

    checkpoint: Checkpoint
    recipe: Recipe
    tp: int = 1
    pp: int = 1

    @property
    def exact(self) -> bool:
        """Whether this layout was held against real exports."""
        return self._algorithm is not None and self._algorithm.exact

    @cached_property
    def exported_bytes(self) -> int:
        """Bytes of all tensors of the export."""
        return sum(self._size(name, info) for name, info in self._tensors()) + self._kv_scales

    @cached_property
    def gpu_bytes(self) -> int:
        """Bytes of weights on the fullest GPU."""
        inside = [0] * self.checkpoint.layers
        first = last = 0
        for name, info in self._tensors():
            size = self._share(name, info)
            at = _layer(name, len(inside))
            if at is not None:
                inside[at] += size
            elif _is_last(name):
                last += size
            else:
                first += size
        groups = [sum(inside[start:stop]) for start, stop in self.stages(len(inside))]
        if self._tied and self.pp > 1:
            last += first  # the head is the embedding, which the last group needs as well
        groups[0] += first
        groups[-1] += last
        return max(groups)

    def stages(self, layers: int) -> list[tuple[int, int]]:
        """Cut layers into ``pp`` consecutive groups; the first ones take what is left over."""
        each, over = divmod(layers, self.pp)
        ends = [0]
        for at in range(self.pp):
            ends.append(ends[-1] + each + (at < over))
        return list(pairwise(ends))

    @cached_property
    def indivisible(self) -> str:
        """Name the first quantized weight that ``tp`` cuts inside a block of scales, or ""."""
        algorithm = self._algorithm
        for name, info in self._tensors() if algorithm else ():
            module = _module(name)
            if algorithm is None or not self._quantized(name, info):
                continue
            width, block = info.shape[-1], algorithm.inner_block(self.recipe)
            cut = self.tp if module.rpartition(".")[2] in _INPUTS else 1
            if width % (cut * block):
                return f"the {width} inputs of {module} into blocks of {block}"
        return ""

    @cached_property
    def _algorithm(self) -> Algorithm | None:
        return algorithm(self.recipe)

    @cached_property
    def _tied(self) -> bool:
        return not any(
            _module(name).rpartition(".")[2] in _VOCABULARY for name, _ in self._tensors()
        )

    @property
    def _kv_scales(self) -> int:
        """ModelOpt writes one float32 for the keys and one for the values of each layer."""
        kept = self.recipe.kv_cache.quantized and self.recipe.backend == "modelopt"
        return 8 * self.checkpoint.layers if kept else 0

    def _tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        return iter(self.checkpoint.tensors.items())

    def _quantized(self, name: str, info: TensorInfo) -> bool:
        """Whether the recipe quantizes this tensor: a linear weight, or a stack of experts."""
        linear = len(info.shape) == 2 and name.endswith(".weight")
        stacked = len(info.shape) == 3 and "experts" in name
        found = self._algorithm
        return (
            (linear or stacked) and found is not None and found.covers(_module(name), self.recipe)
        )

    def _size(self, name: str, info: TensorInfo) -> int:
        if self._algorithm is None or not self._quantized(name, info):
            return info.bytes
        return self._algorithm.bytes(_module(name), info.shape, self.recipe)

    def _share(self, name: str, info: TensorInfo) -> int:
        """Bytes of one tensor on one GPU, after tensor parallelism cut it."""
        shape = self._cut(_module(name).rpartition(".")[2], info.shape)
        if self._algorithm is not None and self._quantized(name, info):
            return self._algorithm.bytes(_module(name), shape, self.recipe, loaded=True)
        return info.bytes * prod(shape) // (prod(info.shape) or 1)

    def _cut(self, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) < 2 or self.tp == 1:
            return shape
        *experts, outputs, inputs = shape
        if part in _OUTPUTS:
            # With fewer KV heads than GPUs each GPU keeps a whole head.
            ways = min(self.tp, self.checkpoint.kv_heads) if part in _KV else self.tp
            return (*experts, -(-outputs // ways), inputs)
        if part in _INPUTS:
            return (*experts, outputs, -(-inputs // self.tp))
        return shape


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _layer(name: str, layers: int) -> int | None:
    """The decoder layer a tensor belongs to; a vision tower's layers count as none."""
    found = _LAYER.search(name)
    if not found or "vision" in name or "visual" in name:
        return None
    return min(int(found[1]), layers - 1)


def _is_last(name: str) -> bool:
    """Whether a tensor stands behind the layers: the final norm and the head."""
    return _module(name).rpartition(".")[2] in {*_VOCABULARY, "norm", "ln_f", "final_layernorm"}
