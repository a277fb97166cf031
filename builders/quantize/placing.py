"""Where each tensor lies in a safetensors file, as the library itself would lay them out."""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

# safetensors' names, in the order in which it lays tensors out: the widest first, then by name.
_ORDER: Final = (
    "U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E8M0", "F8_E4M3",
    "F8_E5M2", "I8", "U8", "BOOL",
)  # fmt: skip
NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint16: "U16", torch.int16: "I16", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_MOST_AT_ONCE: Final = 1 << 30  # bytes that one call to the system is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Self:
        """Describe a tensor, which may be a meta tensor without data."""
        return cls(
            name=name, dtype=NAMES[tensor.dtype], shape=tuple(tensor.shape), bytes=tensor.nbytes
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """One file: what it begins with, where each tensor begins in it, and how long it is."""

    header: bytes
    offsets: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, planned: Iterable[Planned]) -> Self:
        """Lay tensors out."""
        told: dict[str, object] = {"__metadata__": {"format": "pt"}}
        ordered = sorted(planned, key=lambda one: (_ORDER.index(one.dtype), one.name))
        begins, end = dict[str, int](), 0
        for one in ordered:
            begins[one.name], end = end, end + one.bytes
            offsets = [begins[one.name], end]
            told[one.name] = {
                "dtype": one.dtype, "shape": list(one.shape), "data_offsets": offsets,
            }  # fmt: skip
        raw = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        header = len(raw).to_bytes(8, "little") + raw
        start = len(header)
        return cls(header, {name: start + at for name, at in begins.items()}, start + end)

    def begin(self, opened: int) -> None:
        """Give an open file its length and its header."""
        os.ftruncate(opened, self.size)
        os.pwrite(opened, self.header, 0)


def octets(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, where it is, as a flat tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def write(opened: int, bits: Tensor, offset: int) -> None:
    """Write bytes that lie in the host's memory to a place in a file."""
    view = memoryview(bits.numpy())  # type: ignore[arg-type] # numpy arrays are buffers
    while view:
        written = os.pwrite(opened, view[:_MOST_AT_ONCE], offset)
        view, offset = view[written:], offset + written


def read(opened: int, bits: Tensor, offset: int) -> None:
    """Fill bytes in the host's memory from a place in a file; an `OSError` where it ends."""
    view = memoryview(bits.numpy())  # type: ignore[arg-type] # numpy arrays are buffers
    while view:
        count = os.preadv(opened, [view], offset)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        view, offset = view[count:], offset + count
