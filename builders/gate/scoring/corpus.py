"""Read a corpus as documents and cut its tokens into rows to score. Knows no model.

A ``.jsonl`` file holds one document a line, ``{"id": "...", "text": "..."}`` (``id`` may be left
out); a ``.parquet`` file a column ``text``. Any other file is plain text, as in WikiText's raw
files: `` = Title = `` lines begin documents; in a file that has none a form feed parts them; a file
with neither is one document. A file may lie in a data set on the hub, at a pinned commit.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol, cast

from builders import files
from builders.errors import ToolError, UsageError
from builders.gate import jsonl

# " = Title = " opens an article; " = = Section = = " does not.
TITLE: Final = re.compile(r"^ ?= (?!=)[^\n]*[^\n=] = ?$", re.MULTILINE)
HUB: Final = re.compile(r"hub:(?P<hub_id>[^@\s]+)@(?P<revision>[0-9a-f]{40})/(?P<file>\S+)\Z")
EXAMPLE: Final = "hub:ORGANISATION/NAME@<commit of 40 hex digits>/FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a data set on the hub at one commit: what it holds never changes."""

    hub_id: str
    revision: str
    file: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.file.rpartition("/")[2]


Source = Path | HubFile


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


class Rows(Protocol):
    """What reads the texts of a parquet file, loaded when there is one."""

    def texts(self, path: Path) -> list[str]:
        """Return the column ``text``."""


class Hub(Protocol):
    """What fetches a file from the hub, loaded when there is one to fetch."""

    def fetch_file(self, hub_id: str, revision: str, file: str) -> Path:
        """Return the file's place on this machine."""


def source(text: str, *, beside: Path) -> Source:
    """Read what a policy names: a path, or ``hub:`` with data set, commit and file."""
    if not text.startswith("hub:"):
        return beside / text
    found = HUB.match(text)
    if not found:
        raise UsageError(f"perplexity.corpus: {text} names no pinned file", hint=EXAMPLE)
    return HubFile(**found.groupdict())


def key(found: Source) -> list[str]:
    """Return what tells this file's content from any other's."""
    if isinstance(found, HubFile):
        return [found.hub_id, found.revision, found.file]
    return [found.name, files.digest(found)]


def check(sources: Sequence[Source]) -> None:
    """Refuse local files that cannot be read; a file of the hub is fetched when it is measured."""
    if local := [path for path in sources if isinstance(path, Path)]:
        read(local)


def read(sources: Sequence[Source]) -> tuple[Document, ...]:
    """Read all documents of all files in order; none at all is a `UsageError`."""
    documents: dict[str, Document] = {}
    for path in map(_local, sources):
        before = len(documents)
        for name, text in _READERS.get(path.suffix, _parts)(path):
            named = f"{path.name}:{name}"
            if named in documents:
                raise UsageError(f"{path}: two documents are called {name}", hint="change an id")
            documents[named] = Document(named, text)
        if len(documents) == before:
            raise UsageError(f"{path}: no text in it", hint="give the gate a corpus to read")
    return tuple(documents.values())


def passages(sources: Sequence[Source], *, blank: bool) -> tuple[Document, ...]:
    """Read all documents as those who quote WikiText join them: every line parted by an empty one.

    A line keeps its end; a blank one is empty, and left out without ``blank``.
    """
    found: list[Document] = []
    for path in map(_local, sources):
        name, kept = f"{path.name}:0", list[str]()
        for line in _lines(path):
            if TITLE.match(line.rstrip("\n")):
                found += [Document(name, "\n\n".join(kept))] if kept else []
                name, kept = f"{path.name}:{len(found)}", []
            if blank or line.strip():
                kept.append(line if line.strip() else "")
        found += [Document(name, "\n\n".join(kept))] if kept else []
    if not any(document.text.strip() for document in found):
        raise UsageError("perplexity: no text in the corpus", hint="give the gate one to read")
    return tuple(found)


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


def _local(found: Source) -> Path:
    if isinstance(found, Path):
        return found
    hub = cast("Hub", _load("builders.hub"))
    return hub.fetch_file(found.hub_id, found.revision, found.file)


def _lines(path: Path) -> list[str]:
    """Return a file's lines with their ends; a document of another file is one line."""
    if path.suffix == ".parquet":
        return _rows(path)
    if path.suffix == ".jsonl":
        return [text for _, text in _objects(path)]
    *lines, last = jsonl.text(path).split("\n")
    return [*(f"{line}\n" for line in lines), *filter(None, [last])]


def _objects(path: Path) -> Iterator[tuple[str, str]]:
    for number, value in jsonl.objects(path):
        text = value.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f'{path}:{number}: "text" must be a string with something in it')
        yield str(value.get("id", number)), text


def _parquet(path: Path) -> Iterator[tuple[str, str]]:
    rows = _rows(path)
    if any(TITLE.match(row.rstrip("\n")) for row in rows):
        yield from _titled("".join(row or "\n" for row in rows))
    else:
        yield from ((str(number), row) for number, row in enumerate(rows) if row.strip())


def _rows(path: Path) -> list[str]:
    return cast("Rows", _load("builders.gate.scoring.parquet")).texts(path)


def _parts(path: Path) -> Iterator[tuple[str, str]]:
    yield from _titled(jsonl.text(path))


def _titled(text: str) -> Iterator[tuple[str, str]]:
    starts = [match.start() for match in TITLE.finditer(text)]
    edges = [0, *starts, len(text)]
    parts = [text[a:b] for a, b in pairwise(edges)]
    for number, part in enumerate(parts if starts else text.split("\f")):
        if part.strip():
            yield str(number), part


_READERS: Final = {".jsonl": _objects, ".parquet": _parquet}


def _load(module: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ToolError(
            f"the perplexity gate needs {error.name} for this corpus",
            hint="pip install 'enginesmith[eval]'",
        ) from error
