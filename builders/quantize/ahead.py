"""Read a checkpoint into the operating system's memory while the libraries are being imported."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint

_PIECE: Final = 1 << 26  # bytes asked for at once


@contextlib.contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Ask for the weights ahead, piece by piece, until the block ends; only where memory is free.

    Loading maps the files and would wait for the disk at every page. This changes nothing but time.
    """
    end = threading.Event()
    files = sorted(checkpoint.path.glob("*.safetensors"))
    thread = threading.Thread(target=_read, args=(files, end), name="read ahead", daemon=True)
    if hasattr(os, "posix_fadvise") and sum(file.stat().st_size for file in files) < _free():
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
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as opened:
            for at in range(0, os.fstat(opened.fileno()).st_size, _PIECE):
                if end.is_set():
                    return
                os.posix_fadvise(opened.fileno(), at, _PIECE, os.POSIX_FADV_WILLNEED)
