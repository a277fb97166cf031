"""Write safetensors files whose layout is known beforehand, tensor by tensor, in any order.

The library wants all tensors of a file at once. Here each is put in its place as it comes, so that
memory holds one of them, and what was put there before the process was killed need not be made
again. The bytes are those that the library writes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from torch import Tensor

from builders import files
from builders.bundle import fingerprint
from builders.quantize.octets import octets
from builders.quantize.placing import Layout, Planned, shard_name, write_index
from builders.quantize.staging import Outward

SHARD_BYTES: Final = 10 * 10**9
_SYNCED: Final = 1 << 28  # bytes after which what was written is made to last


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
        shards = _cut(planned, most or SHARD_BYTES)
        self._files: dict[str, Layout] = {}
        self._places: dict[str, _Place] = {}
        for number, shard in enumerate(shards, start=1):
            file = shard_name(number, len(shards))
            self._files[file] = layout = Layout.of(shard)
            for one in shard:
                self._places[one.name] = _Place(file, layout.offsets[one.name], one.bytes)
        self._total = sum(one.bytes for one in planned)
        self._log = directory / "done.log"
        self._plan = fingerprint(
            {f: layout.header[8:].decode() for f, layout in self._files.items()}
        )
        self._open: dict[str, int] = {}
        self._outward = Outward()
        self._fresh: list[str] = []
        self._unsynced = 0

    def __enter__(self) -> Self:
        """Open the files, those of an earlier run if they follow the same plan."""
        self._directory.mkdir(parents=True, exist_ok=True)
        known = self._read_log()
        if not known or known[0] != self._plan or not self._whole():
            for stale in self._directory.iterdir():
                stale.unlink()
            known = [self._plan]
        files.write_atomic(self._log, "".join(f"{line}\n" for line in known))
        self._done = frozenset(known[1:])
        for file, layout in self._files.items():
            self._open[file] = os.open(self._directory / file, os.O_RDWR | os.O_CREAT, 0o644)
            layout.begin(self._open[file])
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._outward.__exit__(failed)
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

    def _whole(self) -> bool:
        """Whether every file of an earlier run is there at its full length."""
        places = ((self._directory / file, layout.size) for file, layout in self._files.items())
        return all(place.is_file() and place.stat().st_size == size for place, size in places)

    def is_done(self, task: str) -> bool:
        """Whether an earlier run finished this task."""
        return task in self._done

    def put(self, task: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of one task, each in its place."""
        for name, tensor in tensors.items():
            place = self._places[name]
            if tensor.nbytes != place.bytes:
                raise AssertionError(
                    f"{name} has {tensor.nbytes} bytes where {place.bytes} were planned"
                )
            self._outward.write(self._open[place.file], octets(tensor), place.offset)
            self._unsynced += place.bytes
        self._outward.wait()
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
        """Put the finished files into ``out``; two or more have an index.

        They stay here until all are there: a run that is killed in between goes on from here.
        """
        self.sync()
        for file in self._files:
            (out / file).unlink(missing_ok=True)
            files.place(self._directory / file, out / file, owned=True)
        self._log.unlink()
        for file in self._files:
            (self._directory / file).unlink()
        if len(self._files) > 1:
            write_index(out, {n: place.file for n, place in self._places.items()}, self._total)


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
