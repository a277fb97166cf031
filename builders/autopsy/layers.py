"""The tensors of a checkpoint as layers, and what each layer is for, told from names alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from builders.autopsy.names import Matches, globs
from builders.checkpoint import TensorInfo

# bitsandbytes hangs its tensors below the weight's name.
_BELOW: Final = re.compile(
    r"^(.+)\.(weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
)
# Experts that are stacked in one tensor for each projection have no modules of their own: a weight
# has the projection's name, all else hangs behind it. What hangs there, and its name elsewhere:
# of GPT-OSS, of ModelOpt, of transformers' FP8Experts.
_BEHIND: Final[Mapping[str, str]] = {
    "": "weight",
    **{f"_{part}": part for part in ("blocks", "scales", "bias")},
    **{f"_{part}": part for part in ("weight_scale", "weight_scale_2", "input_scale")},
    "_pre_quant_scale": "pre_quant_scale",
    "_scale_inv": "weight_scale_inv",
    "_activation_scale": "activation_scale",
}
_ENDING: Final[Mapping[str, str]] = {part: behind for behind, part in _BEHIND.items()}
_STACK: Final = re.compile(rf"^(.+\.experts\.\w+?_proj)({'|'.join(_BEHIND)})$")
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
    Role.OUTPUT: globs(("*lm_head", "*output_layer", "*embed_out", "output")),  # InternLM2: output
    Role.EMBEDDING: globs(("*embed*", "*wte", "*wpe", "*relative_attention_bias")),
    Role.ROUTER: globs(("*router", "*.gate", "*shared_expert_gate")),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """All tensors under one module's name; ``stacked``: those of one projection of all experts."""

    module: str
    parts: Mapping[str, TensorInfo]
    role: Role
    stacked: bool = False

    @property
    def codes(self) -> str:
        """The part that holds the weights, "" if none of the layer's parts does."""
        return next((name for name in _CODES if name in self.parts), "")

    def name(self, part: str) -> str:
        """Return the full name of a part's tensor, also of one that is not there."""
        if self.stacked:
            return f"{self.module}{_ENDING.get(part, f'_{part}')}"
        return f"{self.module}.{part}" if self.module else part

    @property
    def kind(self) -> str:
        """The module's own name, with experts counted as one kind: ``experts.*.up_proj``."""
        _, experts, inside = self.module.rpartition(".experts.")
        last = self.module.rpartition(".")[2]
        return f"experts.{_NUMBER.sub('.*.', f'.{inside}')[1:]}" if experts else last


def split(name: str) -> tuple[str, str]:
    """Return the module and the part that a tensor's name tells."""
    stack, below = _STACK.match(name), _BELOW.match(name)
    if stack:
        return stack[1], _BEHIND[stack[2]]
    if below:
        return below[1], below[2]
    module, _, part = name.rpartition(".")
    return module, part


def layers(tensors: Mapping[str, TensorInfo]) -> dict[str, Layer]:
    """Group tensors into layers, in the order of their names."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    stacked: set[str] = set()
    for full, info in sorted(tensors.items()):
        module, part = split(full)
        parts.setdefault(module, {})[part] = info
        if module and full != f"{module}.{part}":
            stacked.add(module)
    return {
        module: Layer(
            module, held, _role(module, held, stacked=module in stacked), module in stacked
        )
        for module, held in parts.items()
    }


def stacks(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """Return the projections whose experts lie in one tensor of that very name."""
    return frozenset(
        name for name, info in tensors.items() if len(info.shape) == 3 and split(name)[0] == name
    )


def _role(module: str, parts: Mapping[str, TensorInfo], *, stacked: bool) -> Role:
    codes = next((parts[name] for name in _CODES if name in parts), None)
    if "norm" in module.rpartition(".")[2].lower() and "vision" not in module:
        return Role.NORM
    named = named_role(module)
    if named is not Role.LINEAR:
        return named
    matrix = codes is not None and (len(codes.shape) == 2 or stacked)
    return Role.LINEAR if matrix else Role.OTHER


@cache
def named_role(module: str) -> Role:
    """Return what a module's name alone says it is for: linear, if nothing else."""
    return next((role for role, matches in _ROLES.items() if matches(module)), Role.LINEAR)
