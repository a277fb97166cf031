"""Read a checkpoint into the operating system's memory while the libraries are being imported."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from builders.checkpoint import Checkpoint
from builders.quantize import memory

# Bytes read at once. Between two pieces a thread waits for Python's lock, which an import gives
# away every 5 ms only, so small pieces would leave the disk idle.
_PIECE: Final = 1 << 25
_THREADS: Final = 4


@contextlib.contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Read the weights until all are read or the block ends; only where memory is free.

    Loading maps the files and would wait for the disk at every page. This changes nothing but time.
    The bytes are read and dropped, because Linux cuts what ``posix_fadvise`` asks for to about a
    megabyte.
    """
    files = checkpoint.shards
    if sum(file.stat().st_size for file in files) >= memory.free():
        yield
        return
    end, left = threading.Event(), SimpleQueue[Path]()
    for file in files:
        left.put(file)
    threads = [
        threading.Thread(target=_read, args=(left, end), name="read ahead", daemon=True)
        for _ in files[:_THREADS]
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _read(left: SimpleQueue[Path], end: threading.Event) -> None:
    piece = bytearray(_PIECE)
    while not end.is_set():
        try:
            file = left.get_nowait()
        except Empty:
            return
        with contextlib.suppress(OSError), file.open("rb", buffering=0) as opened:
            while not end.is_set() and opened.readinto(piece):
                pass
