"""Content-addressed files: a blob is named by the SHA-256 of its bytes and never changes.

The layout ``blobs/sha256/<hex>`` is that of an OCI image layout. Blobs are read-only (0444) and
shared by hard links, so a tree that exists five times takes its space once.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from builders import files
from builders.bundle import Artifact, Tree
from builders.errors import ReleaseError, ToolError

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
# hashlib leaves the interpreter lock while it hashes; past eight readers a disk gives no more.
_THREADS: Final = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Blobs:
    """All files of a store by their digests."""

    root: Path

    @property
    def directory(self) -> Path:
        """Where all blobs lie side by side."""
        return self.root / "sha256"

    def path(self, sha256: str) -> Path:
        """Say where a blob lies, whether or not it is there."""
        return self.directory / sha256

    def holds(self, tree: Tree) -> bool:
        """Whether every file is there with its size; bytes are not read."""
        return all(_size(self.path(a.sha256)) == a.size for a in tree.artifacts)

    def ingest(self, directory: Path) -> Tree:
        """Take every file of a directory in as a blob, durable on return; the files are ours now.

        A file is moved or linked, never copied, unless somebody outside holds a link to it. A
        file that is a link to a blob already is not read again.
        """
        paths = [path for path, _ in walk(directory)]
        known = self._inodes() if any(path.lstat().st_nlink > 1 for path in paths) else {}
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda path: self._take(path, known), paths)
            pairs = [
                (path.relative_to(directory).as_posix(), *entry)
                for path, entry in zip(paths, found, strict=True)
            ]
        files.sync_directory(self.directory)
        return Tree(tuple(sorted(Artifact(*pair) for pair in pairs)))

    def link(self, tree: Tree, into: Path) -> None:
        """Fill a new directory with hard links to a tree's blobs, its names durable on return."""
        into.mkdir()
        for artifact in tree.artifacts:
            target = into / artifact.path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.path(artifact.sha256), target)
        for directory in (into, *(path for path in into.rglob("*") if path.is_dir())):
            files.sync_directory(directory)

    def copy(self, tree: Tree, into: Path) -> None:
        """Fill a new directory with copies that may be edited, and prove them by their digests."""
        into.mkdir()
        for artifact in tree.artifacts:
            target = into / artifact.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path(artifact.sha256), target)
        if bad := changed(into, [(a.path, a) for a in tree.artifacts]):
            self.check(tree)
            raise ToolError(
                f"{bad[0].path}: its copy came out different", hint="is the disk sound?"
            )

    def links(self, tree: Tree, directory: Path) -> bool:
        """Whether a directory holds exactly a tree's files, each a link to its blob."""
        try:
            found = {p.relative_to(directory).as_posix(): s for p, s in walk(directory)}
            return found.keys() == {a.path for a in tree.artifacts} and all(
                os.path.samestat(found[a.path], self.path(a.sha256).stat()) for a in tree.artifacts
            )
        except (FileNotFoundError, NotADirectoryError, ReleaseError):
            return False

    def check(self, tree: Tree) -> None:
        """Hash a tree's blobs; a damaged one is dropped, so that the next run makes it anew."""
        bad = changed(self.directory, [(a.sha256, a) for a in tree.artifacts])
        for artifact in bad:
            self.path(artifact.sha256).unlink(missing_ok=True)
        if bad:
            raise ReleaseError(
                f"{bad[0].path}: its copy in the store {self.root.parent} was damaged; dropped it",
                hint="run the same command again: the stage that makes it runs anew",
            )

    def _inodes(self) -> dict[int, str]:
        with os.scandir(self.directory) as entries:
            return {entry.inode(): entry.name for entry in entries}

    def _take(self, path: Path, known: Mapping[int, str]) -> tuple[str, int]:
        status = path.lstat()
        if status.st_ino in known:
            return known[status.st_ino], status.st_size
        if status.st_nlink > 1:
            _own(path)
        path.chmod(0o444)
        _sync(path)
        sha256 = files.digest(path)
        blob = self.path(sha256)
        try:
            os.link(path, blob)
        except FileExistsError:
            if files.digest(blob) != sha256:
                path.replace(blob)
        return sha256, blob.stat().st_size


def walk(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Find every file of a directory, ordered; links, pipes, sockets and devices are refused."""
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            yield path, status
        elif not stat.S_ISDIR(status.st_mode):
            raise ReleaseError(
                f"{path}: only plain files and directories may be kept, no links and no devices",
                hint="put a copy of the file there",
            )


def changed(root: Path, expected: Iterable[tuple[str, Artifact]]) -> list[Artifact]:
    """Hash files below ``root``; return the artifacts whose file is gone or has other bytes."""
    pairs = list(expected)
    with ThreadPoolExecutor(_THREADS) as pool:
        same = pool.map(lambda pair: _matches(root / pair[0], pair[1]), pairs)
        return [artifact for (_, artifact), ok in zip(pairs, same, strict=True) if not ok]


def sound(tree: Tree) -> bool:
    """Whether all paths are different and below their root, and all digests look like digests."""
    names = {artifact.path for artifact in tree.artifacts}
    return len(names) == len(tree.artifacts) and all(
        _below(a.path) and _SHA256.match(a.sha256) and a.size >= 0 for a in tree.artifacts
    )


def _below(path: str) -> bool:
    plain = PurePosixPath(path).as_posix() == path and "\0" not in path
    return plain and not path.startswith("/") and not {".", "..", ""} & set(path.split("/"))


def _matches(path: Path, artifact: Artifact) -> bool:
    return _size(path) == artifact.size and files.digest(path) == artifact.sha256


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _own(path: Path) -> None:
    """Replace a link to somebody else's file by a copy: their later edits must not reach us."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as copy, path.open("rb") as file:
        shutil.copyfileobj(file, copy, 1 << 20)
    Path(name).replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
