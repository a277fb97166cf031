"""Cut a corpus into the rows that a model scores, in one of the forms that people quote.

``apart`` ends a row where a document ends, ``joined`` lets rows run on. ``gptq`` is the form of
GPTQ and of nearly every published table: all lines of the file, blank ones too, joined by empty
lines, tokenized at once and cut into full windows end to end. ``strided`` leaves blank lines out
and lets windows overlap, so that most tokens are scored with much before them; each counts once.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter
from typing import Protocol

from builders.errors import UsageError
from builders.gate.scoring import corpus
from builders.gate.scoring.corpus import Source
from builders.scorer import Scorer

Starts = list[tuple[int, str]]


class Documents(Enum):
    """How documents become rows."""

    APART = "apart"
    JOINED = "joined"
    GPTQ = "gptq"
    STRIDED = "strided"


WHOLE = frozenset({Documents.GPTQ, Documents.STRIDED})  # tokenized at once, as those who quote do


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tokens to give to the model at once, of which the last ``scored`` count."""

    unit: str
    document: str
    tokens: tuple[int, ...]
    scored: int


class Form(Protocol):
    """What says how to cut: the gate's settings."""

    @property
    def corpus(self) -> tuple[Source, ...]:
        """The files to read."""

    @property
    def documents(self) -> Documents:
        """How documents become rows."""

    @property
    def window(self) -> int:
        """The length of a row."""

    @property
    def stride(self) -> int:
        """How far apart rows begin; 0: end to end."""

    @property
    def prefix(self) -> bool:
        """Whether each row begins with the model's first token."""


def rows(scorer: Scorer, form: Form) -> Iterator[Row]:
    """Yield every row of the corpus; none at all is a `UsageError`."""
    head = (scorer.prefix,) if form.prefix else ()
    room = form.window - len(head)
    found = False
    for tokens, starts in _streams(scorer, form):
        spans = corpus.cut(len(tokens), room=room, stride=form.stride or room, given=len(head))
        for span in spans:
            if form.documents is Documents.GPTQ and span.end - span.begin < room:
                continue
            found = True
            start, document = starts[bisect_right(starts, span.begin, key=itemgetter(0)) - 1]
            yield Row(
                unit=f"{document}+{span.begin - start}",
                document=document,
                tokens=(*head, *tokens[span.begin : span.end]),
                scored=span.scored,
            )
    if not found:
        raise UsageError(
            f"perplexity: the corpus is shorter than one window of {form.window} tokens",
            hint="give more text, or lower window",
        )


def _streams(scorer: Scorer, form: Form) -> Iterator[tuple[list[int], Starts]]:
    """Yield what is cut in one go: tokens, and where among them each document begins."""
    if form.documents in WHOLE:
        blank = form.documents is Documents.GPTQ
        yield _whole(scorer, corpus.passages(form.corpus, blank=blank))
        return
    lead = len(scorer.tokenize(""))  # what the tokenizer puts before any text
    joined: list[int] = []
    starts: Starts = []
    for document in corpus.read(form.corpus):
        if form.documents is Documents.APART:
            tokens = scorer.tokenize(document.text)
            yield tokens[lead if form.prefix else 0 :], [(0, document.name)]
        else:
            tokens = scorer.tokenize(f"{document.text}\n\n")
            starts.append((len(joined), document.name))
            joined += tokens[lead if form.prefix or joined else 0 :]
    if joined:
        yield joined, starts


def _whole(scorer: Scorer, passages: Sequence[corpus.Document]) -> tuple[list[int], Starts]:
    """Tokenize all at once; where documents begin is told by their own lengths.

    A token across two documents moves that by one, which matters to nobody: it says only which
    rows resemble each other.
    """
    text = "\n\n".join(passage.text for passage in passages)
    lead, place = len(scorer.tokenize("")), 0
    starts: Starts = []
    for passage in passages:
        starts.append((place, passage.name))
        place += len(scorer.tokenize(f"{passage.text}\n\n")) - lead
    return scorer.tokenize(text), starts
