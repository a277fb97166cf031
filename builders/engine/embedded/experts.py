"""Mixtures of experts: each expert's projections are linear layers of their own.

Transformers keeps all experts of a layer in two 3-D parameters. Published files and exports have
three matrices per expert, each with scales of its own, and so has what runs here. Some files have
the 3-D tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from builders.engine.embedded.layers import Layers
from builders.engine.embedded.linear import Linear
from builders.engine.embedded.names import Names
from builders.engine.embedded.tensors import Tensors
from builders.errors import ToolError

# What files call an expert's gate, up and down projections.
_SPELLED: Final = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_PLAIN: Final = {"has_gate": True, "has_bias": False, "is_transposed": False}
_FUSED: Final = ("gate_up_proj", "down_proj")

Projections = tuple[Linear, Linear, Linear]


class Expert(nn.Module):
    """One expert: two projections up, combined, and one down."""

    def __init__(self, projections: Projections, combine: Callable[[Tensor], Tensor]) -> None:
        """Let ``combine`` make one tensor of gate and up, which stand side by side."""
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = projections
        self._combine = combine

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute what this expert makes of tokens."""
        sides = torch.cat((self.gate_proj(tokens), self.up_proj(tokens)), dim=-1)
        made: Tensor = self.down_proj(self._combine(sides))
        return made


class Experts(nn.Module):
    """Sends each token to the experts that the router chose, and sums what they make of it."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        """Take the experts in the router's order."""
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weigh and sum in float32, as fused kernels do; a token never meets an expert twice."""
        total = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        for number in sorted(set(chosen.flatten().tolist())):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            made = self.experts[number](tokens[rows])
            total.index_add_(0, rows, made.float() * weights[rows, places, None].float())
        return total.to(tokens.dtype)


def replace(module: nn.Module, layers: Layers, tensors: Tensors, names: Names) -> None:
    """Put experts that were read from the file in the place of a module's empty ones."""
    for name, empty in list(_found(module)):
        place = _Place(name=name, empty=empty, layers=layers, tensors=tensors, names=names)
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, place.read())


def _found(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_modules():
        if all(getattr(getattr(part, fused, None), "ndim", 0) == 3 for fused in _FUSED):
            yield name, part


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the experts of one layer stand, and what they are read with."""

    name: str
    empty: Any
    layers: Layers
    tensors: Tensors
    names: Names

    def read(self) -> Experts:
        """Read all experts; those that compute in a way of their own are a `ToolError`."""
        for asked, plain in _PLAIN.items():
            if getattr(self.empty, asked, None) is not plain:
                raise ToolError(
                    f"{self.tensors.checkpoint.path}: the embedded runtime does not know experts "
                    f"like those of {type(self.empty).__name__}",
                    hint="serve this model with another runtime",
                )
        combine = self.empty._apply_gate  # noqa: SLF001 - transformers' interface for it
        fused = any(f"{self.name}.{name}" in self.names for name in _FUSED)
        read = self._sliced() if fused else self._single()
        experts = [Expert(projections, combine) for projections in read]
        for name in _FUSED:
            delattr(self.empty, name)  # ``combine`` keeps the module alive
        return Experts(experts)

    def _single(self) -> Iterator[Projections]:
        count, hidden, inner = self.empty.down_proj.shape
        first = f"{self.name}.0."
        spelled = next((s for s in _SPELLED if f"{first}{s[0]}.weight" in self.names), _SPELLED[0])
        for number in range(count):
            names = [f"{self.name}.{number}.{name}" for name in spelled]
            gate, up, down = (self.names.stored(f"{name}.weight") for name in names)
            yield (
                self._linear(gate, hidden, inner),
                self._linear(up, hidden, inner),
                self._linear(down, inner, hidden),
            )

    def _linear(self, weight: str, into: int, out: int) -> Linear:
        empty = nn.Linear(into, out, bias=False, device="meta")
        return self.layers.read(weight.removesuffix(".weight"), empty, tied=None, logits=False)

    def _sliced(self) -> Iterator[Projections]:
        (up_name, sides), (down_name, downs) = (self._fused(name) for name in _FUSED)
        plain = self.layers.plain
        for side, down in zip(sides, downs, strict=True):
            gate, up = side.chunk(2)
            yield plain(up_name, gate), plain(up_name, up), plain(down_name, down)

    def _fused(self, name: str) -> tuple[str, Tensor]:
        stored = self.names.stored(f"{self.name}.{name}")
        found = self.tensors[stored]
        self.tensors.expect(stored, found.shape, getattr(self.empty, name).shape)
        return stored, found
