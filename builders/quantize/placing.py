"""Where each tensor lies in safetensors files, as the library itself would lay them out.

Knows no torch.
"""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from builders import files
from builders.checkpoint import INDEX, SINGLE

# safetensors' names, in the order in which it lays tensors out: the widest first, then by name.
_ORDER: Final = (
    "U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E8M0", "F8_E4M3",
    "F8_E5M2", "I8", "U8", "BOOL",
)  # fmt: skip
_MOST_AT_ONCE: Final = 1 << 30  # bytes that one call to the system is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


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


def shard_name(number: int, count: int) -> str:
    """Return the name of a file of weights, of which there are ``count``; the first is 1."""
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def write_index(out: Path, where: Mapping[str, str], total: int) -> None:
    """Tell readers in which of several files each tensor lies, and the bytes of all of them."""
    index = {"metadata": {"total_size": total}, "weight_map": where}
    files.write_atomic(out / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def write(opened: int, view: memoryview, offset: int) -> None:
    """Write bytes to a place in a file."""
    while view:
        written = os.pwrite(opened, view[:_MOST_AT_ONCE], offset)
        view, offset = view[written:], offset + written


def read(opened: int, view: memoryview, offset: int) -> None:
    """Fill a view from a place in a file; an `OSError` where the file ends."""
    while view:
        count = os.preadv(opened, [view], offset)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        view, offset = view[count:], offset + count
