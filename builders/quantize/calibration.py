"""The texts that set static scales: read, validated and chosen here, with no tokenizer in sight."""

import hashlib
import heapq
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Final, Protocol, Self, cast

from builders.bundle import canonical, fingerprint
from builders.errors import ToolError, UsageError
from builders.parse import nearest
from builders.recipe import Calibration, HubTexts, Recipe, Texts, Unreached

Messages = tuple[tuple[str, str], ...]
Batches = tuple[tuple[Sequence[int], ...], ...]

_HINT: Final = 'one JSON object a line: {"text": "…"} or {"messages": [{"role", "content"}]}'
# Of a split on the hub so many rows are read for each one that is chosen, and no more.
_OVERSAMPLED: Final = 20
_LEAST_ROWS: Final = 1000
_STEP: Final = 8  # rows are cut to a multiple of this, so that rows of equal length are common


def is_needed(recipe: Recipe) -> bool:
    """Whether this recipe reads any text: static scales of activations or of the KV cache do."""
    return recipe.needs_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One calibration document, as plain text or as chat messages, and the line it came from."""

    place: str
    text: str = ""
    messages: Messages = ()

    @property
    def content(self) -> list[str] | list[list[str]]:
        """What the model will see, without where it came from."""
        return [list(pair) for pair in self.messages] if self.messages else [self.text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The documents chosen to calibrate with, and how many tokens of each are read."""

    chosen: tuple[Document, ...]
    length: int
    seed: int
    unreached: Unreached = Unreached.EXPLAIN

    @classmethod
    def read(cls, calibration: Calibration) -> Self:
        """Validate every line, then choose ``samples`` distinct documents by the seed.

        The choice takes the documents whose hash with the seed is smallest: it does not depend on
        the order of lines or files. With weights each file gives its share, and what a small file
        lacks comes from the others. Fewer documents than asked are all taken; `documents` says how
        many there are. None at all is an error.
        """
        if not calibration.files:
            raise UsageError(
                "this recipe needs calibration texts, and quantize.calibration.files names none",
                hint=f"name a JSONL file, {_HINT}",
            )
        chosen = _weighted(calibration) if calibration.weights else _pooled(calibration)
        if not chosen:
            names = ", ".join(str(getattr(file, "name", file)) for file in calibration.files)
            raise UsageError(f"{names}: no calibration documents", hint=_HINT)
        return cls(
            chosen=chosen,
            length=calibration.length,
            seed=calibration.seed,
            unreached=calibration.unreached,
        )

    @property
    def documents(self) -> int:
        """How many documents were chosen."""
        return len(self.chosen)

    @property
    def has_messages(self) -> bool:
        """Whether any document needs the tokenizer's chat template."""
        return any(document.messages for document in self.chosen)

    @property
    def digest(self) -> str:
        """SHA-256 over what the model will read: the chosen content, its order and the length."""
        content = [document.content for document in self.chosen]
        return fingerprint({"documents": content, "length": self.length, "seed": self.seed})


def bucket(rows: Iterable[Sequence[int]], *, tokens: int) -> Batches:
    """Group token rows into batches of equal length and about ``tokens`` tokens, longest first.

    Rows are cut, never padded: a padding token's activations would enter the scales. A row loses
    at most seven tokens.
    """
    by_length: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        length = len(row) if len(row) < _STEP else len(row) - len(row) % _STEP
        if length:
            by_length.setdefault(length, []).append(row[:length])
    batches: list[tuple[Sequence[int], ...]] = []
    for length in sorted(by_length, reverse=True):
        same, size = by_length[length], max(1, tokens // length)
        batches += [tuple(same[at : at + size]) for at in range(0, len(same), size)]
    return tuple(batches)


Ranked = tuple[bytes, Document]


def _pooled(calibration: Calibration) -> tuple[Document, ...]:
    """Choose from all files as if they were one."""
    seen: set[bytes] = set()
    found = (pair for file in calibration.files for pair in _distinct(file, calibration, seen))
    return _smallest(found, calibration.samples)


def _weighted(calibration: Calibration) -> tuple[Document, ...]:
    """Choose each file's share of the samples from it, then fill up from what is left of all."""
    seen: set[bytes] = set()
    total, given = sum(calibration.weights), 0
    chosen: list[Ranked] = []
    left: list[Ranked] = []
    for file, share in zip(calibration.files, accumulate(calibration.weights), strict=True):
        until = round(calibration.samples * share / total)
        found = heapq.nsmallest(
            calibration.samples, _distinct(file, calibration, seen), key=itemgetter(0)
        )
        chosen += found[: until - given]
        left += found[until - given :]
        given = until
    chosen += heapq.nsmallest(calibration.samples - len(chosen), left, key=itemgetter(0))
    return tuple(document for _, document in sorted(chosen, key=itemgetter(0)))


def _smallest(pairs: Iterable[Ranked], count: int) -> tuple[Document, ...]:
    return tuple(document for _, document in heapq.nsmallest(count, pairs, key=itemgetter(0)))


def _distinct(file: Texts, calibration: Calibration, seen: set[bytes]) -> Iterator[Ranked]:
    """Yield each document not seen yet, with the hash that decides whether it is chosen."""
    salt = str(calibration.seed).encode() + b"\0"
    for document in documents(_local(file, calibration)):
        rank = hashlib.sha256(salt + canonical(document.content)).digest()
        if rank not in seen:
            seen.add(rank)
            yield rank, document


class Hub(Protocol):
    """What fetches texts from the hub, loaded when some lie there."""

    def fetch_file(self, hub_id: str, revision: str, file: str) -> Path:
        """Return a file's place on this machine."""

    def rows(self, texts: HubTexts, *, count: int) -> Path:
        """Return a JSON-lines file with the first texts of a split."""


def _local(texts: Texts, calibration: Calibration) -> Path:
    if isinstance(texts, Path):
        return texts
    try:
        hub = cast("Hub", importlib.import_module("builders.hub"))
    except ImportError as error:
        raise ToolError(
            f"{texts.name}: nothing here fetches from the hub: {error}",
            hint="pip install 'enginesmith[eval]', or name a local JSON-lines file",
        ) from error
    if texts.file:
        return hub.fetch_file(texts.hub_id, texts.revision, texts.file)
    return hub.rows(texts, count=max(_LEAST_ROWS, _OVERSAMPLED * calibration.samples))


def documents(file: Path) -> Iterator[Document]:
    """Read and validate a JSON-lines file, line by line."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document(line, f"{file}:{number}")
    except FileNotFoundError:
        raise UsageError(f"{file}: no such calibration file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error


def _document(line: bytes, place: str) -> Document:
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not valid JSON ({error})", hint=_HINT) from error
    if not isinstance(data, dict):
        raise UsageError(f"{place}: holds no JSON object", hint=_HINT)
    if "text" in data and "messages" in data:
        raise UsageError(f"{place}: has both text and messages", hint="keep one of them")
    if "text" in data:
        return Document(place=place, text=_text(data["text"], "text", place))
    if "messages" in data:
        return Document(place=place, messages=_messages(data["messages"], place))
    keys = ", ".join(sorted(data)) or "none"
    near = nearest(next(iter(sorted(data)), ""), ("text", "messages"))
    raise UsageError(f"{place}: needs the key text or messages, has {keys}", hint=near)


def _messages(value: object, place: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{place}: messages must be a list of at least one message", hint=_HINT)
    return tuple(_message(entry, place) for entry in value)


def _message(entry: object, place: str) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise UsageError(f"{place}: a message must have role and content", hint=_HINT)
    role, content = (_text(entry.get(key), key, place) for key in ("role", "content"))
    return role, content


def _text(value: object, key: str, place: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{place}: {key} must be a string, not {type(value).__name__}", hint=_HINT)
    if not value.strip():
        raise UsageError(f"{place}: {key} is empty", hint="remove this line or fill it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{place}: {key} holds half of a surrogate pair ({error.reason})"
        ) from error
    return value
