"""The only file tricks of the house: hashing, atomic writes, links and copies, locks."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builders.errors import ToolError, UsageError


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write beside, sync, then replace: a killed process leaves the old file or the new one."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def place(file: Path, target: Path, *, owned: bool) -> None:
    """Put a file at a new place too: as a link if it is the store's own, else as a copy.

    A link shares mode and bytes with the file: one that a user may edit is never linked. A copy
    shares its blocks with the file where the file system can do that.
    """
    real = file.resolve()
    if owned:
        try:
            os.link(real, target)
        except OSError:  # another file system, or one that has no hard links
            pass
        else:
            return
    with real.open("rb") as source, target.open("xb") as copy:
        with suppress(OSError):  # not between these file systems, or not by this kernel
            while os.copy_file_range(source.fileno(), copy.fileno(), 1 << 30):
                pass
        shutil.copyfileobj(source, copy, 1 << 20)  # the rest, which may be all


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs; wait for another holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def discard_on_failure(directory: Path) -> Iterator[Path]:
    """Make a directory for the block to fill; if the block fails, nothing of it stays."""
    directory.mkdir(parents=True)
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def refuse_existing(file: Path) -> None:
    """Refuse to write over a file that somebody may still need."""
    if file.exists():
        raise UsageError(f"{file}: exists already", hint="name a new file, or remove this one")


def refuse_occupied(directory: Path) -> None:
    """Refuse to write into a directory of the user's that holds something."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory}: not an empty directory", hint="name one that is empty")


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals to write into a `ToolError` with the next step."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ToolError(
            f"{what}: {error.strerror or error}{where}",
            hint="free space or mend permissions there, then run the same command again",
        ) from error
