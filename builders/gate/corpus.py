"""Read a corpus as documents and cut its tokens into rows to score. Knows no model.

A ``.jsonl`` file holds one document a line, ``{"id": "...", "text": "..."}`` (``id`` may be left
out). Any other file is plain text: WikiText's `` = Title = `` lines begin documents; in a file that
has none a form feed parts them; a file with neither is one document.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from builders.errors import UsageError
from builders.gate import jsonl

# " = Title = " opens an article; " = = Section = = " does not.
TITLE: Final = re.compile(r"^ ?= (?!=)[^\n]*[^\n=] = ?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose parts resemble each other more than they do other texts."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of tokens to score at once, of which the last ``scored`` count."""

    begin: int
    end: int
    scored: int


def read(paths: Sequence[Path]) -> tuple[Document, ...]:
    """Read all documents of all files in order; none at all is a `UsageError`."""
    documents: dict[str, Document] = {}
    for path in paths:
        before = len(documents)
        for name, text in _objects(path) if path.suffix == ".jsonl" else _parts(path):
            key = f"{path.name}:{name}"
            if key in documents:
                raise UsageError(f"{path}: two documents are called {name}", hint="change an id")
            documents[key] = Document(key, text)
        if len(documents) == before:
            raise UsageError(f"{path}: no text in it", hint="give the gate a corpus to read")
    return tuple(documents.values())


def cut(count: int, *, room: int, stride: int, given: int = 0) -> Iterator[Span]:
    """Cut ``count`` tokens into spans of ``room`` that begin ``stride`` apart.

    Each token counts once, in the first span that holds it. A span's first token counts only if
    ``given`` tokens stand before it; a span in which none would count is left out.
    """
    done = 0
    for begin in range(0, count, stride):
        end = min(begin + room, count)
        scored = min(end - done, end - begin - 1 + given)
        if scored > 0:
            yield Span(begin=begin, end=end, scored=scored)
        done = end
        if end == count:
            return


def spread(count: int, wanted: int) -> Iterator[int]:
    """Choose ``wanted`` of ``count`` places, evenly spread; 0 wants them all."""
    few = min(wanted or count, count)
    return (place * count // few for place in range(few))


def _objects(path: Path) -> Iterator[tuple[str, str]]:
    for number, value in jsonl.objects(path):
        text = value.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f'{path}:{number}: "text" must be a string with something in it')
        yield str(value.get("id", number)), text


def _parts(path: Path) -> Iterator[tuple[str, str]]:
    text = jsonl.text(path)
    starts = [match.start() for match in TITLE.finditer(text)]
    edges = [0, *starts, len(text)]
    parts = [text[a:b] for a, b in pairwise(edges)]
    for number, part in enumerate(parts if starts else text.split("\f")):
        if part.strip():
            yield str(number), part
