"""The tensors of a checkpoint as layers, and what each layer is for, told from names alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from builders.autopsy.names import Matches, globs
from builders.checkpoint import TensorInfo

# bitsandbytes hangs its tensors below the weight's name, GPT-OSS behind the name of the projection.
_BELOW: Final = re.compile(
    r"^(.+)\.(weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
)
_BEHIND: Final = re.compile(r"^(.+\.experts\.\w+_proj)_(blocks|scales|bias)$")
_CODES: Final = ("weight", "weight_packed", "qweight", "W_q", "blocks")
# Projections that runtimes store as one matrix, by their names in one block.
FUSED: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
_NUMBER: Final = re.compile(r"\.\d+\.")


class Role(Enum):
    """What a layer is for."""

    LINEAR = "linear"
    OUTPUT = "output"
    EMBEDDING = "embedding"
    ROUTER = "router"
    VISION = "vision"
    NORM = "norm"
    OTHER = "other"


# The first that matches counts.
_ROLES: Final[Mapping[Role, Matches]] = {
    Role.VISION: globs(("*vision*", "*visual*", "*audio_tower*", "*multi_modal_projector*")),
    Role.EMBEDDING: globs(("*embed*", "*wte", "*wpe", "*relative_attention_bias")),
    Role.OUTPUT: globs(("*lm_head", "*output_layer", "*embed_out")),
    Role.ROUTER: globs(("*router", "*.gate", "*shared_expert_gate")),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """All tensors under one module's name."""

    module: str
    parts: Mapping[str, TensorInfo]
    role: Role

    @property
    def codes(self) -> str:
        """The part that holds the weights, "" if none of the layer's parts does."""
        return next((name for name in _CODES if name in self.parts), "")

    def name(self, part: str) -> str:
        """Return the full name of a part's tensor, also of one that is not there."""
        stacked = "weight" not in self.parts and _BEHIND.match(f"{self.module}_bias")
        joint = "_" if stacked else "."
        return f"{self.module}{joint}{part}" if self.module else part

    @property
    def kind(self) -> str:
        """The module's own name, with experts counted as one kind: ``experts.*.up_proj``."""
        _, experts, inside = self.module.rpartition(".experts.")
        last = self.module.rpartition(".")[2]
        return f"experts.{_NUMBER.sub('.*.', f'.{inside}')[1:]}" if experts else last


def split(name: str) -> tuple[str, str]:
    """Return the module and the part that a tensor's name tells."""
    found = _BELOW.match(name) or _BEHIND.match(name)
    if found:
        return found[1], found[2]
    module, _, part = name.rpartition(".")
    return module, part


def layers(tensors: Mapping[str, TensorInfo]) -> dict[str, Layer]:
    """Group tensors into layers, in the order of their names."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for full, info in sorted(tensors.items()):
        module, part = split(full)
        parts.setdefault(module, {})[part] = info
    return {module: Layer(module, held, _role(module, held)) for module, held in parts.items()}


def _role(module: str, parts: Mapping[str, TensorInfo]) -> Role:
    codes = next((parts[name] for name in _CODES if name in parts), None)
    if "norm" in module.rpartition(".")[2].lower() and "vision" not in module:
        return Role.NORM
    named = named_role(module)
    if named is not Role.LINEAR:
        return named
    matrix = codes is not None and (len(codes.shape) == 2 or "blocks" in parts)
    return Role.LINEAR if matrix else Role.OTHER


@cache
def named_role(module: str) -> Role:
    """Return what a module's name alone says it is for: linear, if nothing else."""
    return next((role for role, matches in _ROLES.items() if matches(module)), Role.LINEAR)
