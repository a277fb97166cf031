"""Say in a few words why a stage ran: what differs from the last time it was asked for."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from builders.bundle import canonical

LOST: Final = "its record or a blob was missing"
FIRST: Final = "first run"
_NAMED: Final = 3
_HEX: Final = re.compile(r"((?:[a-z0-9]+:)?[0-9a-f]{8})[0-9a-f]{8,}\Z")


def difference(now: Mapping[str, object], last: Mapping[str, object]) -> str:
    """Name at most three inputs that changed, came or went."""
    new, old = dict(_flat(now)), dict(_flat(last))
    notes = [_note(key, old, new) for key in sorted(new.keys() | old.keys())]
    said = [note for note in notes if note]
    rest = len(said) - _NAMED
    return "; ".join(said[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _note(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    if key not in old:
        return f"{key} is new: {_short(new[key])}"
    if key not in new:
        return f"{key} is gone: was {_short(old[key])}"
    if old[key] == new[key]:
        return ""
    return f"{key} changed: {_short(old[key])} → {_short(new[key])}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else canonical(value).decode()
    if found := _HEX.match(text):
        return f"{found[1]}…"
    return text if len(text) <= 40 else f"{text[:39]}…"
