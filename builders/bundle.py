"""Directories as values: artifacts with digests, and the tree they make."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from builders import files
from builders.errors import ReleaseError


def canonical(value: object) -> bytes:
    """Encode a JSON value so that equal values have equal bytes; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def fingerprint(value: object) -> str:
    """Return the SHA-256 of a JSON value's canonical bytes, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class Artifact:
    """One file of a tree: its POSIX path below the root, its SHA-256 and its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """All files of a directory, ordered by path; equal trees have equal digests."""

    artifacts: tuple[Artifact, ...]

    @classmethod
    def of(cls, root: Path) -> Self:
        """Hash every file below ``root``; a symbolic link is refused."""
        return cls(tuple(sorted(_artifact(root, path) for path in _walk(root))))

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, object]]) -> Self:
        """Read what `as_json` wrote."""
        return cls(
            tuple(
                sorted(
                    Artifact(path, str(entry["sha256"]), int(str(entry["size"])))
                    for path, entry in data.items()
                )
            )
        )

    def as_json(self) -> dict[str, dict[str, object]]:
        """Return ``{path: {"sha256", "size"}}``."""
        return {a.path: {"sha256": a.sha256, "size": a.size} for a in self.artifacts}

    @property
    def digest(self) -> str:
        """The SHA-256 over all paths, digests and sizes, in hex."""
        return fingerprint(self.as_json())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(artifact.size for artifact in self.artifacts)


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise ReleaseError(f"{path}: symbolic links are not allowed in a bundle")
        if path.is_file():
            yield path


def _artifact(root: Path, path: Path) -> Artifact:
    return Artifact(path.relative_to(root).as_posix(), files.digest(path), path.stat().st_size)
