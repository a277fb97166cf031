"""Digests of large files, remembered by what the file system says of them.

A checkpoint of a hundred gigabytes takes minutes to hash, and every command asks what it holds. So
the digest of a large file is kept in the user's cache under its place, inode, size and times of
change: any write, copy or rename changes one of them. What was touched a moment ago is hashed and
not remembered, since another write might leave the same times.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from builders import files

LARGE: Final = 64 << 20  # bytes; what is smaller is hashed in a twentieth of a second
_FRESH_S: Final = 2.0  # no file system's clock is coarser
_AT_ONCE: Final = 4
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


def digests(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of each file's bytes, in hex and in order; large ones side by side."""
    with ThreadPoolExecutor(max_workers=min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest, paths))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex, remembered if the file is large."""
    before = path.stat()
    if before.st_size < LARGE:
        return files.digest(path)
    note = _folder() / _key(path, before)
    known = _read(note)
    if known:
        return known
    found = files.digest(path)
    settled = time.time() - max(before.st_mtime, before.st_ctime) > _FRESH_S
    if settled and _key(path, path.stat()) == note.name:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            files.write_atomic(note, found)
    return found


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "enginesmith" / "digests"


def _key(path: Path, status: os.stat_result) -> str:
    facts = (
        path.resolve(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
        status.st_ctime_ns,
    )  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _read(note: Path) -> str:
    try:
        text = note.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _SHA256.match(text) else ""
