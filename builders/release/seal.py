"""Seal trees into a release that is never edited again, and prove a release whole.

A release lies in ``releases/<hex>/``, made by one rename: its files, hard links to the store's
blobs, and ``manifest.json``, a signed envelope whose SHA-256 is the release's digest. Equal content
sealed with the same key has the same digest.
"""

import hashlib
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders import files
from builders.bundle import Artifact, Tree
from builders.errors import ReleaseError, UsageError
from builders.release import manifest, signing
from builders.release.manifest import Manifest, Predicate
from builders.release.signing import SigningKey, Trusted
from builders.store import Store
from builders.store.blobs import changed, sound, walk

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})\Z")
_LIMIT: Final = 64 << 20  # bytes of a manifest; a bundle of 100,000 files needs about 20 MiB


def seal(
    store: Store, parts: Mapping[str, Tree | Path], predicate: Predicate, key: SigningKey
) -> str:
    """Make a release of trees and files, each under its name, and return its digest.

    A part is a tree whose blobs the store has, or a file or directory to copy in. Every blob is
    hashed; what was sealed before is left as it is.
    """
    with (
        files.disk_errors(f"seal the release in {store.root}"),
        store.building("seal") as workspace,
    ):
        tree = _joined(store, parts, workspace)
        envelope = key.sign(
            Manifest(tree=tree, predicate=predicate).payload(), manifest.PAYLOAD_TYPE
        )
        digest = f"sha256:{hashlib.sha256(envelope).hexdigest()}"
        place = directory(store, digest)
        if not place.exists():
            store.blobs.check(tree)
            files.write_atomic(workspace / "signed" / manifest.NAME, envelope)
            signed = store.blobs.ingest(workspace / "signed")
            store.blobs.link(Tree(tree.artifacts + signed.artifacts), workspace / "release")
            (workspace / "release").replace(place)
            files.sync_directory(place.parent)
    return digest


def verify(store: Store, digest: str, trusted: Trusted) -> Manifest:
    """Prove a release: signature first, then every file, none missing, none more, none changed."""
    place = directory(store, digest)
    with files.disk_errors(f"read the release {place}"):
        found = _read_manifest(place, digest, trusted)
        faults = _listed(place, found.tree) or _hashed(place, found.tree)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise _tampered(place, faults[0] + more)
    return found


def directory(store: Store, digest: str) -> Path:
    """Say where a release's files lie."""
    match = _DIGEST.match(digest)
    if not match:
        raise UsageError(f"{digest!r} is not a release's digest", hint="sha256: and 64 hex digits")
    return store.root / "releases" / match[1]


def _joined(store: Store, parts: Mapping[str, Tree | Path], workspace: Path) -> Tree:
    artifacts = [
        Artifact("/".join(filter(None, (name, a.path))), a.sha256, a.size)
        for number, (name, part) in enumerate(parts.items())
        for a in _tree(store, part, workspace / str(number)).artifacts
    ]
    tree = Tree(tuple(sorted(artifacts)))
    paths = {a.path for a in artifacts} | {manifest.NAME}
    inner = {parent.as_posix() for path in paths for parent in Path(path).parents}
    if len(paths) != len(artifacts) + 1 or inner & paths or not sound(tree):
        raise ReleaseError(f"the parts {', '.join(parts)} do not fit together in one directory")
    return tree


def _tree(store: Store, part: Tree | Path, copy: Path) -> Tree:
    if isinstance(part, Tree):
        return part
    if not part.exists():
        raise ReleaseError(f"{part}: nothing there to seal", hint="run the stage that makes it")
    if part.is_dir():
        list(walk(part))  # refuses links before anything follows them
        shutil.copytree(part, copy, copy_function=shutil.copyfile)
        return store.blobs.ingest(copy)
    copy.mkdir()
    shutil.copyfile(part, copy / "file")
    (artifact,) = store.blobs.ingest(copy).artifacts
    return Tree((Artifact("", artifact.sha256, artifact.size),))


def _read_manifest(place: Path, digest: str, trusted: Trusted) -> Manifest:
    path = place / manifest.NAME
    try:
        if place.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
            raise _tampered(place, f"{manifest.NAME} is not a plain file in a plain directory")
        if path.stat().st_size > _LIMIT:
            raise _tampered(place, f"{manifest.NAME} is too large to be a manifest")
        envelope = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if place.exists():
            raise _tampered(place, f"{manifest.NAME} is missing") from None
        raise _absent(place, digest) from None
    if f"sha256:{hashlib.sha256(envelope).hexdigest()}" != digest:
        raise _tampered(place, f"{manifest.NAME} was changed")
    vouched = signing.verify(envelope, trusted, payload_type=manifest.PAYLOAD_TYPE, place=str(path))
    return Manifest.parse(vouched.payload, signed_by=vouched.key_id)


def _listed(place: Path, tree: Tree) -> list[str]:
    """Compare names: what is not in the manifest, what is no plain file, what is missing."""
    wanted = {a.path for a in tree.artifacts} | {manifest.NAME}
    above = {parent.as_posix() for path in wanted for parent in Path(path).parents}
    found = {p.relative_to(place).as_posix(): p.lstat().st_mode for p in place.rglob("*")}
    odd = [
        f"{path} is a link or a device, and a release holds none"
        for path, mode in sorted(found.items())
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    ]
    plain = {path for path, mode in found.items() if stat.S_ISREG(mode)}
    folders = {path for path, mode in found.items() if stat.S_ISDIR(mode)}
    extra = sorted((plain - wanted) | (folders - above))
    missing = sorted(wanted - found.keys() | (wanted & folders))
    return [
        *odd,
        *(f"{path} does not belong to the release" for path in extra),
        *(f"{path} is missing" for path in missing),
    ]


def _hashed(place: Path, tree: Tree) -> list[str]:
    pairs = [(artifact.path, artifact) for artifact in tree.artifacts]
    return [f"{artifact.path} was changed" for artifact in changed(place, pairs)]


def _tampered(place: Path, what: str) -> ReleaseError:
    return ReleaseError(
        f"{place}: {what}",
        hint="it is not what was signed: remove that directory and release again, or copy it anew",
    )


def _absent(place: Path, digest: str) -> ReleaseError:
    return ReleaseError(
        f"there is no release {digest[:19]}… in {place.parent.parent}",
        hint="enginesmith history CHANNEL lists a channel's releases; --store names another store",
    )
