"""How a checkpoint's weights come out of a recipe and lie on tp × pp GPUs, byte by byte.

Read from safetensors headers only. What the recipe leaves alone keeps the dtype it is stored in.
"""

import re
from collections import Counter
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
_HEADS: Final = frozenset({"lm_head", "output_layer"})
_LAST: Final = _HEADS | {"norm", "ln_f", "final_layernorm"}


@dataclass(frozen=True, slots=True)
class Alike:
    """What tensors have in common that take the same bytes and go to the same GPU."""

    part: str
    shape: tuple[int, ...]
    stored_bytes: int
    quantized: bool
    layer: int | None


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint under a recipe."""

    checkpoint: Checkpoint
    recipe: Recipe

    @property
    def exact(self) -> bool:
        """Whether this layout was held against real exports."""
        return self._algorithm is not None and self._algorithm.exact

    @cached_property
    def exported_bytes(self) -> int:
        """Bytes of all tensors of the export."""
        sizes = (count * self._size(alike) for alike, count in self._tensors.items())
        return sum(sizes) + self._kv_scales

    def gpu_bytes(self, tp: int, pp: int) -> int:
        """Bytes of weights on the fullest GPU: the largest group of layers with what goes along."""
        inside = [0] * self.checkpoint.layers
        first = last = 0
        for alike, count in self._tensors.items():
            size = count * self._share(alike, tp)
            if alike.layer is not None:
                inside[alike.layer] += size
            elif alike.part in _LAST:
                last += size
            else:
                first += size
        groups = [sum(inside[start:stop]) for start, stop in stages(len(inside), pp)]
        if pp > 1 and not any(alike.part in _HEADS for alike in self._tensors):
            last += first  # the head is the embedding, which the last group needs as well
        groups[0] += first
        groups[-1] += last
        return max(groups)

    def indivisible(self, tp: int) -> str:
        """Name the first quantized weight that ``tp`` cuts inside a block of scales, or ""."""
        if self._algorithm is None:
            return ""
        block = self._algorithm.inner_block(self.recipe)
        for alike in self._tensors:
            cut = tp if alike.part in _INPUTS else 1
            if alike.quantized and alike.shape[-1] % (cut * block):
                at = "" if alike.layer is None else f"layer {alike.layer} "
                return f"the {alike.shape[-1]} inputs of {at}{alike.part} into blocks of {block}"
        return ""

    @cached_property
    def _algorithm(self) -> Algorithm | None:
        return algorithm(self.recipe)

    @property
    def _kv_scales(self) -> int:
        """ModelOpt writes one float32 for the keys and one for the values of each layer."""
        kept = self.recipe.kv_scales and self.recipe.backend == "modelopt"
        return 8 * self.checkpoint.layers if kept else 0

    @cached_property
    def _tensors(self) -> Counter[Alike]:
        """Count equal tensors once: a mixture of experts has tens of thousands."""
        return Counter(self._alike())

    def _alike(self) -> Iterator[Alike]:
        layers = self.checkpoint.layers
        for name, info in self.checkpoint.tensors.items():
            module = name.removesuffix(".weight").removesuffix(".bias")
            yield Alike(
                module.rpartition(".")[2],
                info.shape,
                info.bytes,
                self._is_quantized(name, module, info),
                _layer(name, layers),
            )

    def _is_quantized(self, name: str, module: str, info: TensorInfo) -> bool:
        """Whether the recipe quantizes this tensor: a linear weight, or a stack of experts."""
        linear = len(info.shape) == 2 and name.endswith(".weight")
        stacked = len(info.shape) == 3 and "experts" in name
        found = self._algorithm
        return (linear or stacked) and found is not None and found.covers(module, self.recipe)

    def _size(self, alike: Alike) -> int:
        if self._algorithm is None or not alike.quantized:
            return alike.stored_bytes
        return self._algorithm.bytes(alike.part, alike.shape, self.recipe)

    def _share(self, alike: Alike, tp: int) -> int:
        """Bytes of one tensor on one GPU, after tensor parallelism cut it."""
        shape = self._cut(alike, tp)
        if self._algorithm is not None and alike.quantized:
            return self._algorithm.bytes(alike.part, shape, self.recipe, loaded=True)
        return alike.stored_bytes * prod(shape) // (prod(alike.shape) or 1)

    def _cut(self, alike: Alike, tp: int) -> tuple[int, ...]:
        if len(alike.shape) < 2 or tp == 1:
            return alike.shape
        *experts, outputs, inputs = alike.shape
        if alike.part in _OUTPUTS:
            # With fewer KV heads than GPUs each GPU keeps a whole head.
            ways = min(tp, self.checkpoint.kv_heads) if alike.part in _KV else tp
            return (*experts, -(-outputs // ways), inputs)
        if alike.part in _INPUTS:
            return (*experts, outputs, -(-inputs // tp))
        return alike.shape


def stages(layers: int, pp: int) -> list[tuple[int, int]]:
    """Cut layers into ``pp`` consecutive groups; the first ones take what is left over."""
    each, over = divmod(layers, pp)
    ends = [0]
    for at in range(pp):
        ends.append(ends[-1] + each + (at < over))
    return list(pairwise(ends))


def _layer(name: str, layers: int) -> int | None:
    """The decoder layer a tensor belongs to; a vision tower's layers count as none."""
    found = _LAYER.search(name)
    if not found or "vision" in name or "visual" in name:
        return None
    return min(int(found[1]), layers - 1)
