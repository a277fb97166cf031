"""A channel: a name that points to a release, kept as an append-only log of signed records.

Record N is created only if there is none yet (link(2)), so that of two writers one wins and the
other looks again. A record holds the digest of the one before it: a log that lost or swapped a
record says so. The highest number is where the channel points; going back is a new record too.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from builders import files
from builders.bundle import canonical
from builders.errors import ReleaseError, UsageError
from builders.parse import nearest
from builders.release import signing
from builders.release.signing import SigningKey, Trusted
from builders.release.wire import decoded, expect, understood
from builders.store import Store

PAYLOAD_TYPE: Final = "application/vnd.enginesmith.channel+json"
_SEGMENT: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}"
_NAME: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})?\Z")
_LOG: Final = "log"
_RECORD: Final = re.compile(r"([0-9]{6,12})\.json\Z")


class Action(StrEnum):
    """Why a record was written."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record: release ``digest`` took over from ``previous``, by which key, when and why.

    ``after`` is the SHA-256 of the record before it, empty for the first.
    """

    channel: str
    seq: int
    digest: str
    previous: str
    after: str
    action: Action
    by: str
    at: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a store, as read by somebody who trusts certain keys."""

    store: Store
    name: str
    trusted: Trusted

    @classmethod
    def named(cls, store: Store, name: str, trusted: Trusted) -> Self:
        """Name a channel, which need not have a release yet; a name that is no name is refused."""
        refuse_name(name)
        return cls(store, name, trusted)

    def history(self) -> tuple[Entry, ...]:
        """Return all records, first one first, each verified; none for a channel that is new."""
        return tuple(entry for entry, _ in self._records())

    def current(self) -> Entry:
        """Return the record that the channel points with."""
        history = self.history()
        if not history:
            raise self._unknown()
        return history[-1]

    def point_to(self, digest: str, action: Action, *, key: SigningKey, reason: str = "") -> Entry:
        """Append a record, whoever else writes; where the channel points there, change nothing."""
        while True:
            records = self._records()
            last, after = records[-1] if records else (None, "")
            if last and last.digest == digest:
                return last
            entry = Entry(
                channel=self.name,
                seq=len(records) + 1,
                digest=digest,
                previous=last.digest if last else "",
                after=after,
                action=action,
                by=key.id,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                reason=reason,
            )
            if self._put(entry.seq, key.sign(canonical(asdict(entry)), PAYLOAD_TYPE)):
                return entry

    @property
    def _log(self) -> Path:
        return self.store.root / "channels" / self.name / _LOG

    def _records(self) -> list[tuple[Entry, str]]:
        """Read the whole log; a gap, a foreign record or a broken link is refused."""
        records: list[tuple[Entry, str]] = []
        for seq, raw in self._raw():
            entry = self._read(raw, f"record {seq} of channel {self.name}")
            digest, after = (records[-1][0].digest, records[-1][1]) if records else ("", "")
            expected = (self.name, seq, digest, after)
            if (entry.channel, entry.seq, entry.previous, entry.after) != expected:
                raise self._broken(f"record {seq} does not follow the one before it")
            records.append((entry, hashlib.sha256(raw).hexdigest()))
        return records

    def _raw(self) -> list[tuple[int, bytes]]:
        with files.disk_errors(f"read channel {self.name}"):
            found = {int(m[1]): p for p in _listing(self._log) if (m := _RECORD.match(p.name))}
            if gaps := sorted(set(range(1, max(found, default=0) + 1)) - found.keys()):
                raise self._broken(f"record {gaps[0]} is missing")
            return [(seq, found[seq].read_bytes()) for seq in sorted(found)]

    def _read(self, raw: bytes, place: str) -> Entry:
        vouched = signing.verify(raw, self.trusted, payload_type=PAYLOAD_TYPE, place=place)
        body = decoded(vouched.payload, place)
        entry = understood(lambda: _entry(body), place)
        if entry.by != vouched.key_id:
            raise self._broken(f"record {entry.seq} names key {entry.by}, another one signed it")
        return entry

    def _put(self, seq: int, raw: bytes) -> bool:
        """Create a record unless there is one: the only way that a channel changes."""
        with files.disk_errors(f"move channel {self.name}"):
            self.store.prepare()
            self._log.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._log, prefix=".") as beside:
                beside.write(raw)
                beside.flush()
                os.fsync(beside.fileno())
                Path(beside.name).chmod(0o444)
                try:
                    os.link(beside.name, self._log / f"{seq:06d}.json")
                except FileExistsError:
                    return False
            files.sync_directory(self._log)
            return True

    def _broken(self, what: str) -> ReleaseError:
        return ReleaseError(
            f"channel {self.name}: {what} ({self._log})",
            hint="restore the log from a copy: a channel's records are never edited or removed",
        )

    def _unknown(self) -> ReleaseError:
        names = known(self.store)
        hint = nearest(self.name, names) if names else "no channel has a release yet"
        listed = f"; known: {', '.join(names)}" if "did you mean" in hint else ""
        return ReleaseError(f"there is no channel {self.name}", hint=hint + listed)


def refuse_name(name: str) -> None:
    """Refuse what cannot name a channel."""
    if not _NAME.match(name) or _LOG in name.split("/"):
        raise UsageError(
            f"{name!r} is not a channel's name",
            hint="letters, digits, '.', '_' and '-', at most one '/', as in cpu/stable",
        )


def known(store: Store) -> list[str]:
    """List the channels that point somewhere, by name."""
    root = store.root / "channels"
    logs = [*root.glob(f"*/{_LOG}"), *root.glob(f"*/*/{_LOG}")]
    return sorted(
        log.parent.relative_to(root).as_posix()
        for log in logs
        if any(_RECORD.match(path.name) for path in _listing(log))
    )


def earlier(history: tuple[Entry, ...]) -> Entry | None:
    """Find the promotion before the one in force: undoing twice goes back two, not to and fro."""
    stack: list[Entry] = []
    for entry in history:
        if entry.action is Action.ROLLBACK:
            back = [kept.digest for kept in stack]
            stack = stack[: back.index(entry.digest)] if entry.digest in back else stack
        stack.append(entry)
    return stack[-2] if len(stack) > 1 else None


def _listing(log: Path) -> list[Path]:
    return list(log.iterdir()) if log.is_dir() else []


def _entry(body: Mapping[str, object]) -> Entry:
    text = {
        f.name: expect(str, body[f.name]) for f in fields(Entry) if f.name not in {"seq", "action"}
    }
    return Entry(seq=expect(int, body["seq"]), action=Action(expect(str, body["action"])), **text)
