"""Keys and values: rounded as a low-precision cache keeps them, and kept in slots per request.

ModelOpt's ``k_bmm_quantizer`` and ``v_bmm_quantizer`` round what attention reads, after the rotary
embedding. That is what passes here, so rounding on the way in computes the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache

from builders.formats import Format
from builders.numerics import blocks


def _fp8(values: Tensor, scale: float) -> Tensor:
    return blocks.round_e4m3(values * (1.0 / scale)) * scale


def _nvfp4(values: Tensor, scale: float) -> Tensor:
    """Round blocks along a head; ModelOpt writes largest / 448 for this cache as for FP8."""
    unit = torch.tensor(scale / blocks.E2M1_MAX, device=values.device)
    return blocks.nvfp4_round(values.contiguous(), KV_BLOCK, unit) * unit


KV_BLOCK: Final = 16
ROUNDINGS: Final = {Format.FP8: _fp8, Format.NVFP4: _nvfp4}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KvScale:
    """The scale of one layer's keys or values, and the mean that is taken off before (affine)."""

    scale: float
    bias: Tensor | None = None
    kind: Format = Format.FP8

    def round(self, values: Tensor) -> Tensor:
        """Round to the cache's format and back to the format that came in."""
        if self.bias is not None:
            values = values - self.bias
        kept = ROUNDINGS[self.kind](values.float(), self.scale).to(values.dtype)
        return kept if self.bias is None else kept + self.bias


KvScales = Mapping[int, tuple[KvScale, KvScale]]


class Cache(TransformersCache):  # type: ignore[misc] # transformers is untyped
    """What all caches here share: layers without scales keep keys and values as they come."""

    def __init__(self, scales: KvScales) -> None:
        super().__init__(layers=[])
        self.scales = scales

    def rounded(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Round one layer's keys and values."""
        if layer not in self.scales:
            return keys, values
        for_keys, for_values = self.scales[layer]
        return for_keys.round(keys), for_values.round(values)

    def mask(self) -> Tensor | None:
        """Say what the next pass may read; None: all that is given, up to each token itself."""
        return None


class Passing(Cache):
    """Keeps nothing: whole sequences pass once, rounded as a cache would have kept them."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Return what attention reads."""
        return self.rounded(key_states, value_states, layer_idx)


class Beginning(Cache):
    """Keeps what passes first, one row; what passes then, many rows, reads it before its own."""

    def __init__(self, scales: KvScales) -> None:
        """Keep nothing yet."""
        super().__init__(scales)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Return what attention reads: the beginning of each row, then what came now."""
        keys, values = self.rounded(key_states, value_states, layer_idx)
        if layer_idx not in self._kept:
            self._kept[layer_idx] = (keys, values)
            return keys, values
        first_keys, first_values = self._kept[layer_idx]
        rows = len(keys)
        return (
            torch.cat((first_keys.expand(rows, -1, -1, -1), keys), 2),
            torch.cat((first_values.expand(rows, -1, -1, -1), values), 2),
        )


class Slots(Cache):
    """A place per running request; rows 0 to n - 1 are in use, so a batch is one slice.

    `begin` or `advance` says before each forward pass where its keys and values go.
    """

    def __init__(self, scales: KvScales, *, slots: int, context: int) -> None:
        """Make room on the first pass, when the shapes are seen."""
        super().__init__(scales)
        self._slots, self._context = slots, context
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._row, self._reach = 0, 0
        self._rows: Tensor | None = None
        self._positions: Tensor | None = None

    def begin(self, row: int) -> None:
        """Let the next pass write a whole prompt into a row."""
        self._row, self._positions = row, None

    def advance(self, positions: Sequence[int], device: torch.device) -> Tensor:
        """Let the next pass write one token a row; return the positions as a column."""
        self._positions = torch.tensor(positions, device=device)
        self._rows = torch.arange(len(positions), device=device)
        self._reach = max(positions) + 1
        return self._positions.unsqueeze(-1)

    def mask(self) -> Tensor | None:
        """Say which kept positions each row may read, as (rows, 1, 1, reach)."""
        if self._positions is None or len(self._positions) == 1:
            return None
        reachable = torch.arange(self._reach, device=self._positions.device)
        return (reachable <= self._positions.unsqueeze(-1))[:, None, None, :]

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another that has ended."""
        if source != target:
            for keys, values in self._kept.values():
                keys[target].copy_(keys[source])
                values[target].copy_(values[source])

    def clear(self, row: int) -> None:
        """Leave nothing of a row that holds NaN: whoever gets it next would read them masked."""
        for keys, values in self._kept.values():
            keys[row].zero_()
            values[row].zero_()

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Keep what came, and return all that attention reads."""
        new_keys, new_values = self.rounded(key_states, value_states, layer_idx)
        keys, values = self._place(new_keys, new_values, layer_idx)
        if self._positions is None:
            keys[self._row, :, : new_keys.shape[2]] = new_keys[0]
            values[self._row, :, : new_values.shape[2]] = new_values[0]
            return new_keys, new_values
        keys[self._rows, :, self._positions] = new_keys[:, :, 0]
        values[self._rows, :, self._positions] = new_values[:, :, 0]
        rows, reach = len(self._positions), self._reach
        return keys[:rows, :, :reach], values[:rows, :, :reach]

    def _place(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Zeros, not garbage: a masked NaN would still spoil a weighted sum."""
        if layer not in self._kept:
            self._kept[layer] = (self._room(keys), self._room(values))
        return self._kept[layer]

    def _room(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        return like.new_zeros(self._slots, heads, self._context, width)
