"""Read a checkpoint into the operating system's memory while the libraries are being imported."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint

_PIECE: Final = 1 << 23  # bytes read at once


@contextlib.contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Read the weights, piece by piece, until the block ends; only where memory is free.

    Loading maps the files and would wait for the disk at every page. This changes nothing but time.
    The bytes are read and dropped, because Linux cuts what ``posix_fadvise`` asks for to about a
    megabyte.
    """
    end = threading.Event()
    files = sorted(checkpoint.path.glob("*.safetensors"))
    thread = threading.Thread(target=_read, args=(files, end), name="read ahead", daemon=True)
    if sum(file.stat().st_size for file in files) < _free():
        thread.start()
    try:
        yield
    finally:
        end.set()
        if thread.ident is not None:
            thread.join()


def _free() -> int:
    """Return what a checkpoint may fill: three quarters of the memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4


def _read(files: list[Path], end: threading.Event) -> None:
    piece = bytearray(_PIECE)
    for file in files:
        with contextlib.suppress(OSError), file.open("rb", buffering=0) as opened:
            while not end.is_set() and opened.readinto(piece):
                pass
