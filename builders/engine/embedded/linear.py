"""A linear layer that multiplies what low precision holds, and rounds where hardware rounds."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from builders.numerics.readers import Rounded, Rounding

# Below this many multiply-adds a float32 product is the faster one even where a CPU multiplies
# bfloat16 in hardware: oneDNN takes 25 µs to start, a small float32 product is done in 7 (Xeon
# with AMX, 2 threads). A matrix up to _TWIN elements is kept in both widths for that.
_SMALL: Final = 1 << 22
_TWIN: Final = 1 << 20


class Memory:
    """Remembers the last rounding, so that layers which read the same tensor round it once.

    One tuple is replaced as a whole: threads may share it and at worst round again.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, object, Rounded] | None = None

    def round(self, values: Tensor, rounder: "Rounder") -> Rounded:
        """Return the rounder's codes for a tensor."""
        last = self._last
        if last is not None and last[0] is values and last[1] is rounder:
            return last[2]
        rounded = rounder.apply(values)
        self._last = (values, rounder, rounded)
        return rounded

    def forget(self) -> None:
        """Let the remembered tensors go."""
        self._last = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rounder:
    """What is done to a layer's input: smoothed by a factor a channel, then rounded to codes."""

    smooth: Tensor | None
    rounding: Rounding | None

    def apply(self, values: Tensor) -> Rounded:
        """Smooth in the model's own format, as kernels do, then round."""
        if self.smooth is not None:
            values = values * self.smooth
        if self.rounding is None:
            return values, None
        return self.rounding(values.float())


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a device multiplies a 16-bit format in hardware."""
    if device.type != "cpu":
        return True
    asked = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,  # noqa: SLF001 - the only way
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,  # noqa: SLF001 - the only way
    }
    return bool(asked[dtype]())


class Matrix:
    """A constant matrix, in the widths in which it is multiplied; products sum in float32."""

    def __init__(self, values: Tensor, dtype: torch.dtype, *, exact_sums: bool = False) -> None:
        """Keep ``values`` as ``dtype`` holds them; ``exact_sums`` never rounds a product."""
        held = values.to(dtype)
        cpu = held.device.type == "cpu"
        narrow = dtype != torch.float32 and multiplies(dtype, held.device)
        if cpu and exact_sums:
            narrow = False
        self.dtype = dtype
        self.shape = tuple(held.shape)
        self.elements = held.numel()
        self._cpu = cpu
        self._narrow = held if narrow else None
        wide = not narrow or (cpu and self.elements <= _TWIN)
        self._wide = held.float() if wide else None

    def times(self, values: Tensor) -> Tensor:
        """Multiply rows by the matrix; the result is float32, or rounded once to ``dtype``."""
        narrow, wide = self._narrow, self._wide
        rows = values.numel() // values.shape[-1]
        if wide is not None and (narrow is None or rows * self.elements <= _SMALL):
            return functional.linear(values.float(), wide)
        assert narrow is not None
        values = values.to(self.dtype)
        if self._cpu:
            return functional.linear(values, narrow)
        flat = torch.mm(values.flatten(0, -2), narrow.t(), out_dtype=torch.float32)
        return flat.view(*values.shape[:-1], -1)


class Linear(nn.Module):
    """A layer read from a checkpoint: round, multiply, scale, add the bias, round to ``dtype``."""

    def __init__(
        self,
        matrix: Matrix,
        *,
        dtype: torch.dtype,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        rounder: Rounder | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Compute in ``dtype`` outside; ``gain`` multiplies the sums, None stands for 1."""
        super().__init__()
        self.matrix, self.dtype = matrix, dtype
        self.gain = float(gain) if gain is not None and gain.ndim == 0 else gain
        self.bias = bias
        self.rounder, self.memory = rounder, memory or Memory()

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer to the last dimension."""
        token_scale = None
        if self.rounder is not None:
            values, token_scale = self.memory.round(values, self.rounder)
        sums = self.matrix.times(values)
        if self.gain is not None:
            sums = sums * self.gain
        if token_scale is not None:
            sums = sums * token_scale
        if self.bias is not None:
            sums = sums + self.bias
        return sums.to(self.dtype)
