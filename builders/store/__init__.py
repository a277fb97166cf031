"""The stage store: work that was done once for the same inputs is not done again.

A stage's key is the SHA-256 of its name, its code's version and its inputs. Its files become blobs
and its record, renamed into place after them, is the only commit point: a run that is killed
anywhere loses at most the stage that was running. What a file system loses later is a miss, never
an error. Knows nothing of what stages do.

    blobs/sha256/<hex>       every file once, read-only
    records/<key>.json       which files a stage made
    trees/<tree digest>/     the same files under their names, hard links
    last/<stage>.json        what a stage was last asked, to say what changed
    locks/, tmp/<lock>.*/    one builder per key; its directory, swept when the builder is gone
    releases/, channels/     kept by the release room
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from builders import files
from builders.bundle import Tree, canonical, fingerprint
from builders.errors import BuildersError, ReleaseError, UsageError
from builders.store import why
from builders.store.blobs import Blobs, sound

_LAYOUT: Final = 1
_MARKER: Final = "enginesmith-store.json"
_PARTS: Final = ("blobs/sha256", "records", "trees", "last", "locks", "tmp", "releases", "channels")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_DISK: Final = (*_FULL, errno.EACCES, errno.EPERM, errno.EIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage's answer: its files, where they lie, and why it ran or did not.

    ``seconds`` is what this call took, ``worked`` what the work itself took when it was done.
    ``path`` is read-only and outlives the call.
    """

    name: str
    key: str
    cached: bool
    seconds: float
    worked: float
    tree: Tree
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Store:
    """A directory of finished stages and releases; reading never writes."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Self:
        """Open a store, or name one that the first write creates; refuse a foreign directory."""
        root = root.absolute()
        with files.disk_errors(f"open the store {root}"):
            _refuse_foreign(root)
        return cls(root)

    @property
    def blobs(self) -> Blobs:
        """The store's files by their digests."""
        return Blobs(self.root / "blobs")

    def run(
        self,
        name: str,
        *,
        inputs: Mapping[str, object],
        work: Callable[[Path], None],
        version: int = 1,
        waiting: Callable[[str], None] | None = None,
    ) -> Stage:
        """Return the stage's files for these inputs, calling ``work(directory)`` if need be.

        ``inputs`` is JSON and names everything that the result depends on, by digest: no paths, no
        times. ``version`` grows when the stage's code changes its output. ``waiting`` is told when
        another run works on the same stage. Empty directories and executable bits are not kept.
        """
        began = time.perf_counter()
        asked = _question(name, inputs, version)
        key = fingerprint(asked)
        with _disk_trouble(f"{name}: the store {self.root}", self.root):
            reason, found = self._why(key, asked), self._lookup(key)
            cached = found is not None
            if found is None:
                with self.building(key, waiting) as workspace:
                    found = self._lookup(key)
                    cached = found is not None
                    if found is None:
                        found = self._work(asked, work, workspace)
            tree, worked = found
            path = self._tree(tree)
            self._remember(asked, key, must=not cached)
        return Stage(
            name=name,
            key=key,
            cached=cached,
            seconds=time.perf_counter() - began,
            worked=worked,
            tree=tree,
            path=path,
            why=f"unchanged since {key[:8]}" if cached else reason,
        )

    def find(
        self, name: str, *, inputs: Mapping[str, object], version: int = 1
    ) -> tuple[Stage | None, str]:
        """Return a finished stage, if these inputs have one, and why it would be run or reused."""
        began = time.perf_counter()
        asked = _question(name, inputs, version)
        key = fingerprint(asked)
        reason, found = self._why(key, asked), self._lookup(key)
        if found is None:
            return None, reason
        tree, worked = found
        stage = Stage(
            name=name,
            key=key,
            cached=True,
            seconds=time.perf_counter() - began,
            worked=worked,
            tree=tree,
            path=self._tree(tree),
            why=f"unchanged since {key[:8]}",
        )
        return stage, stage.why

    def materialise(self, tree: Tree, out: Path) -> None:
        """Copy a tree into a directory of the user's, which must be empty or absent."""
        with files.disk_errors(f"write {out}"):
            files.refuse_occupied(out)
            if not self.blobs.holds(tree):
                self.blobs.check(tree)
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
                copy = Path(beside) / "copy"
                self.blobs.copy(tree, copy)
                copy.replace(out)

    def prepare(self) -> None:
        """Make the store's directories, if they are not there; called before every write."""
        marker = self.root / _MARKER
        if not marker.exists():
            files.write_atomic(marker, canonical({"layout": _LAYOUT}) + b"\n")
        for part in _PARTS:
            (self.root / part).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def building(self, lock: str, waiting: Callable[[str], None] | None = None) -> Iterator[Path]:
        """Hold a lock of this store and lend an empty directory in it; nothing of that stays."""
        self.prepare()
        with self._locked(lock, waiting):
            self._sweep(lock)
            workspace = Path(tempfile.mkdtemp(prefix=f"{lock}.", dir=self.root / "tmp"))
            try:
                yield workspace
            finally:
                shutil.rmtree(workspace, ignore_errors=True)

    def _work(
        self, asked: Mapping[str, object], work: Callable[[Path], None], workspace: Path
    ) -> tuple[Tree, float]:
        began = time.perf_counter()
        out = workspace / "out"
        out.mkdir()
        work(out)
        tree = self.blobs.ingest(out)
        self._tree(tree)
        seconds = round(time.perf_counter() - began, 3)
        record = {**asked, "files": tree.as_json(), "seconds": seconds}
        files.write_atomic(self._record(fingerprint(asked)), canonical(record))
        return tree, seconds

    def _lookup(self, key: str) -> tuple[Tree, float] | None:
        """Read a record's files and seconds; absent, damaged or short of a blob it is a miss."""
        record = _read_json(self._record(key))
        try:
            asked = {part: record[part] for part in ("stage", "version", "inputs")}
            tree = Tree.from_json(record["files"])  # type: ignore[arg-type] # caught below
            seconds = float(str(record["seconds"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        whole = fingerprint(asked) == key and sound(tree) and self.blobs.holds(tree)
        return (tree, seconds) if whole else None

    def _tree(self, tree: Tree) -> Path:
        """Give a tree its place under ``trees/`` by one rename, anew if somebody meddled there."""
        place = self.root / "trees" / tree.digest
        if not self.blobs.links(tree, place):
            with self.building(f"tree-{tree.digest}") as workspace:
                if not self.blobs.links(tree, place):
                    self.blobs.link(tree, workspace / "tree")
                    if place.exists():
                        place.replace(workspace / "old")
                    (workspace / "tree").replace(place)
                    files.sync_directory(place.parent)
        return place

    def _record(self, key: str) -> Path:
        return self.root / "records" / f"{key}.json"

    def _last(self, stage: object) -> Path:
        return self.root / "last" / f"{quote(str(stage), safe='')[:200]}.json"

    def _why(self, key: str, asked: Mapping[str, object]) -> str:
        last = _read_json(self._last(asked["stage"]))
        if self._record(key).exists() or last.get("key") == key:
            return why.LOST
        if last.get("stage") != asked["stage"] or not isinstance(last.get("inputs"), dict):
            return why.FIRST
        return why.difference(*(_named(question) for question in (asked, last))) or why.FIRST

    def _remember(self, asked: Mapping[str, object], key: str, *, must: bool) -> None:
        """Note what was asked last; when nothing ran, a store that cannot be written is no harm."""
        path = self._last(asked["stage"])
        if _read_json(path).get("key") == key:
            return
        try:
            files.write_atomic(path, canonical({**asked, "key": key}))
        except OSError:
            if must:
                raise

    @contextmanager
    def _locked(self, lock: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        with (self.root / "locks" / lock).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting("another run works on this stage; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sweep(self, lock: str) -> None:
        """Remove what killed builders left: ours, and that of any lock which nobody holds."""
        for leftover in (self.root / "tmp").iterdir():
            owner = leftover.name.rpartition(".")[0] or lock
            if owner == lock:
                shutil.rmtree(leftover, ignore_errors=True)
                continue
            with (self.root / "locks" / owner).open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(leftover, ignore_errors=True)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: the store must be a directory")
    layout = _read_json(root / _MARKER).get("layout")
    if layout is None and root.exists() and any(p.name[0] != "." for p in root.iterdir()):
        raise UsageError(
            f"{root}: neither empty nor an enginesmith store", hint="name an empty directory"
        )
    if layout not in {None, _LAYOUT}:
        raise ReleaseError(
            f"{root}: a store of layout {layout}, and this enginesmith reads layout {_LAYOUT}",
            hint="use the version of enginesmith that made it, or another --store",
        )


def _question(name: str, inputs: Mapping[str, object], version: int) -> dict[str, object]:
    asked = {"stage": name, "version": version, "inputs": dict(inputs)}
    plain: dict[str, object] = json.loads(canonical(asked))
    return plain


def _named(question: Mapping[str, object]) -> dict[str, object]:
    inputs = question["inputs"]
    named = dict(inputs) if isinstance(inputs, dict) else {}
    return {**named, "code version": question.get("version")}


def _read_json(path: Path) -> dict[str, object]:
    """Read an object; a file that is absent or damaged is empty."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


@contextmanager
def _disk_trouble(what: str, where: Path) -> Iterator[None]:
    """Turn a full, broken or forbidden disk into a `ToolError`, whoever met it.

    Libraries in other languages (safetensors) report the system's words in errors of their own.
    """
    try:
        yield
    except BuildersError:
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        with files.disk_errors(what):
            raise
    except Exception as error:
        met = [code for code in _FULL if os.strerror(code) in str(error)]
        if not met:
            raise
        with files.disk_errors(what):
            raise OSError(met[0], os.strerror(met[0]), str(where)) from error
