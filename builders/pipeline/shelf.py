"""What stands in the store already: releases, channels, their history; and serving one of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from builders import serve
from builders.errors import UsageError
from builders.home import Home
from builders.pipeline import attempts, lanes, speaking
from builders.release import promotion, seal, signing
from builders.release.channel import Channel, Entry
from builders.release.manifest import Manifest
from builders.release.signing import SigningKey, Trusted
from builders.serve import TritonServer
from builders.serve.openai import OpenAiServer, openai_server
from builders.serve.ports import HOST, Ports
from builders.store import Store

REPOSITORY = "model_repository"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A store as read by somebody who trusts certain keys."""

    store: Store
    home: Home
    trusted: Trusted

    @classmethod
    def open(cls, home: Home, store: Path | None, key: Path | None) -> Self:
        """Open a store; ``key`` is the only public key to trust, else all that the home trusts."""
        trusted = signing.only(key) if key else Trusted.load(home.trusted)
        return cls(store=Store.at(store or home.store), home=home, trusted=trusted)

    def channel(self, name: str) -> Channel:
        """Name a channel of this store."""
        return Channel.named(self.store, name, self.trusted)

    def find(self, name: str) -> tuple[str, Manifest]:
        """Resolve a channel or digest to a release, and prove it whole."""
        digest = promotion.resolve(self.store, name, self.trusted)
        return digest, seal.verify(self.store, digest, self.trusted)


def history(shelf: Shelf, channel: str) -> list[dict[str, Any]]:
    """List a channel's records, newest first."""
    found = shelf.channel(channel)
    found.current()  # refuses a channel that is unknown
    return [_entry(entry) for entry in reversed(found.history())]


def rollback(shelf: Shelf, channel: str, *, to: int | None, reason: str) -> dict[str, Any]:
    """Point a channel back to an earlier record's release, verified first."""
    found = shelf.channel(channel)
    found.current()  # refuses a channel that is unknown, whoever asks
    key = SigningKey.load(shelf.home.signing_key)
    return _entry(promotion.rollback(found, to=to, key=key, reason=reason))


def verify(shelf: Shelf, name: str) -> dict[str, Any]:
    """Prove a release whole and say who signed it."""
    digest, manifest = shelf.find(name)
    return {
        "release": digest,
        "files": len(manifest.tree.artifacts),
        "bytes": manifest.tree.size,
        "signed_by": manifest.signed_by,
        "path": str(seal.directory(shelf.store, digest)),
    }


def show(shelf: Shelf, name: str) -> dict[str, Any]:
    """Tell what a release is made of; it is verified first."""
    digest, manifest = shelf.find(name)
    predicate = manifest.predicate
    place = seal.directory(shelf.store, digest)
    return {
        "release": digest,
        "outcome": predicate.outcome.value,
        "about": dict(predicate.about),
        "gates": [verdict.as_json() for verdict in predicate.verdicts],
        "attempts": _attempts(place),
        "plan": f"sha256:{predicate.plan}",
        "tools": dict(predicate.tools),
        "bytes": manifest.tree.size,
        "files": len(manifest.tree.artifacts),
        "signed_by": manifest.signed_by,
        "path": str(place),
        "report": str(place / "report" / "report.html"),
    }


def _attempts(place: Path) -> list[dict[str, Any]]:
    path = place / "attempts" / attempts.FILE
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return found


@contextmanager
def served(
    shelf: Shelf, name: str, *, log: Path, http_port: int, grpc_port: int, host: str = HOST
) -> Iterator[tuple[TritonServer, str]]:
    """Serve a verified release for the length of the block; yields server and model name."""
    digest, manifest = shelf.find(name)
    repository = seal.directory(shelf.store, digest) / REPOSITORY
    model = manifest.predicate.about.get("model", "")
    if not model:
        raise UsageError(f"{name}: this release does not say which model it serves")
    how = lanes.hosting(repository, host=host)
    with serve.tritonserver(
        repository, log=log, http_port=http_port, grpc_port=grpc_port, how=how
    ) as server:
        yield server, model


@contextmanager
def openai(
    shelf: Shelf, name: str, *, log: Path, port: int, host: str = HOST
) -> Iterator[OpenAiServer]:
    """Serve a verified release by its runtime's own program, for the length of the block."""
    digest, manifest = shelf.find(name)
    repository = seal.directory(shelf.store, digest) / REPOSITORY
    built = speaking.engine_of(repository)
    if built and speaking.speaks(built):
        at = speaking.At(host=host, port=port)
        model = manifest.predicate.about.get("model", "model")
        with speaking.served(built, model, log=log, home=shelf.home, at=at) as server:
            yield server
        return
    port = Ports(http=port).free().http
    argv = lanes.openai_argv(repository, host, port)
    with openai_server(argv, port=port, log=log, host=host) as server:
        yield server


def _entry(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"action": entry.action.value}
