"""Write safetensors files whose layout is known beforehand, tensor by tensor, in any order.

The library wants all tensors of a file at once. Here each is put in its place as it comes, so that
memory holds one of them, and what was put there before the process was killed need not be made
again. The bytes are those that the library writes.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor

from builders import files
from builders.bundle import fingerprint

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
SHARD_BYTES: Final = 10 * 10**9
_SYNCED: Final = 1 << 28  # bytes after which what was written is made to last


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
class _Place:
    file: str
    offset: int
    bytes: int


class Shards:
    """Files in a directory of their own, filled in any order, resumed if the plan is the same."""

    def __init__(
        self, directory: Path, planned: Sequence[Planned], *, most: int | None = None
    ) -> None:
        """Lay out every file; tensors come to shards in the order in which they are given."""
        self._directory = directory
        self._headers: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._places: dict[str, _Place] = {}
        shards = _cut(planned, most or SHARD_BYTES)
        for number, shard in enumerate(shards, start=1):
            self._lay_out(_name(number, len(shards)), shard)
        self._total = sum(one.bytes for one in planned)
        self._log = directory / "done.log"
        self._plan = fingerprint({file: raw[8:].decode() for file, raw in self._headers.items()})
        self._open: dict[str, int] = {}
        self._fresh: list[str] = []
        self._unsynced = 0

    def _lay_out(self, file: str, shard: Iterable[Planned]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        ordered = sorted(shard, key=lambda one: (_ORDER.index(one.dtype), one.name))
        for one in ordered:
            end = offset + one.bytes
            header[one.name] = {
                "dtype": one.dtype, "shape": list(one.shape), "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        self._headers[file] = len(raw).to_bytes(8, "little") + raw
        start = len(raw) + 8
        self._sizes[file] = start + offset
        at = start
        for one in ordered:
            self._places[one.name] = _Place(file, at, one.bytes)
            at += one.bytes

    def __enter__(self) -> Self:
        """Open the files, those of an earlier run if they follow the same plan."""
        self._directory.mkdir(parents=True, exist_ok=True)
        known = self._read_log()
        if not known or known[0] != self._plan:
            for stale in self._directory.iterdir():
                stale.unlink()
            known = [self._plan]
        files.write_atomic(self._log, "".join(f"{line}\n" for line in known))
        self._done = frozenset(known[1:])
        for file, header in self._headers.items():
            opened = os.open(self._directory / file, os.O_RDWR | os.O_CREAT, 0o644)
            self._open[file] = opened
            os.ftruncate(opened, self._sizes[file])
            os.pwrite(opened, header, 0)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open.values():
            os.close(opened)
        self._open.clear()

    def _read_log(self) -> list[str]:
        """Read whole lines only: the last one may be cut off where the process was killed."""
        try:
            text = self._log.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def is_done(self, task: str) -> bool:
        """Whether an earlier run finished this task."""
        return task in self._done

    def put(self, task: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of one task, each in its place."""
        for name, tensor in tensors.items():
            place = self._places[name]
            bits = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
            view = memoryview(bits)  # type: ignore[arg-type] # numpy arrays are buffers
            if len(view) != place.bytes:
                raise AssertionError(
                    f"{name} has {len(view)} bytes where {place.bytes} were planned"
                )
            _write(self._open[place.file], view, place.offset)
            self._unsynced += place.bytes
        self._fresh.append(task)
        if self._unsynced >= _SYNCED:
            self.sync()

    def sync(self) -> None:
        """Make what was written last, then remember it as done."""
        for opened in self._open.values():
            os.fdatasync(opened)
        with self._log.open("a", encoding="utf-8") as log:
            log.writelines(f"{task}\n" for task in self._fresh)
            log.flush()
            os.fsync(log.fileno())
        self._fresh, self._unsynced = [], 0

    def finish(self, out: Path) -> None:
        """Move the finished files into ``out``; two or more have an index."""
        self.sync()
        for file in self._headers:
            shutil.move(self._directory / file, out / file)
        self._log.unlink()
        if len(self._headers) > 1:
            where = {name: place.file for name, place in self._places.items()}
            index = {"metadata": {"total_size": self._total}, "weight_map": where}
            text = json.dumps(index, indent=2, sort_keys=True)
            files.write_atomic(out / "model.safetensors.index.json", text + "\n")


def _cut(planned: Sequence[Planned], most: int) -> list[list[Planned]]:
    """Cut where the next tensor would make a shard too large, as transformers does."""
    shards: list[list[Planned]] = []
    size = most
    for one in planned:
        if not shards or size + one.bytes > most:
            shards.append([])
            size = 0
        shards[-1].append(one)
        size += one.bytes
    return shards


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write(opened: int, view: memoryview, offset: int) -> None:
    while len(view):
        written = os.pwrite(opened, view[: 1 << 30], offset)
        view, offset = view[written:], offset + written
