"""Perplexity gate: may the candidate's perplexity stand in for the baseline's?

Both models score the same rows of tokens; what counts is the difference row by row, weighted by
tokens, so that its mean is the logarithm of the ratio of the two perplexities.
"""

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter
from pathlib import Path
from typing import Final

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import Scorer, TokenScores, corpus, evidence
from builders.gate.evidence import Evidence, Sample
from builders.gate.intervals import Bounds, mean_bounds, settle
from builders.parse import Table
from builders.progress import Progress
from builders.verdict import Verdict

NAME: Final = "perplexity"
NEEDS: Final = "scorer"
FORM: Final = 1  # raised when the same settings would measure something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tokens to give to the model at once, of which the last ``scored`` count."""

    unit: str
    document: str
    tokens: tuple[int, ...]
    scored: int


class Documents(Enum):
    """Whether rows end where a document ends, or run on into the next one."""

    APART = "apart"
    JOINED = "joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to score, and the largest relative increase of perplexity that is called none.

    ``window`` is the length of a row, ``stride`` how far apart rows begin (0: end to end),
    ``windows`` how many rows to take, evenly spread (0: all). With ``prefix`` each row begins with
    the model's first token, as a served prompt does.
    """

    corpus: tuple[Path, ...]
    documents: Documents
    window: int
    stride: int
    windows: int
    prefix: bool
    margin: float
    confidence: float


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; relative files lie in the folder ``beside``."""
    with table:
        settings = Settings(
            corpus=tuple(beside / name for name in table.texts("corpus")),
            documents=table.choice("documents", Documents, Documents.APART),
            window=table.whole("window", 2048, least=2),
            stride=table.whole("stride", 0),
            windows=table.whole("windows", 0),
            prefix=table.flag("prefix", default=False),
            margin=table.number("margin", 0.01),
            confidence=confidence,
        )
    if settings.stride > settings.window - settings.prefix:
        raise UsageError(
            f"perplexity: a stride of {settings.stride} leaves out tokens between the windows",
            hint=f"choose at most {settings.window - settings.prefix}",
        )
    return settings


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    return {
        "form": FORM,
        "corpus": [[path.name, files.digest(path)] for path in settings.corpus],
        "documents": settings.documents.value,
        "window": settings.window,
        "stride": settings.stride,
        "windows": settings.windows,
        "prefix": settings.prefix,
    }


def check(settings: Settings) -> None:
    """Refuse a corpus that cannot be read."""
    if not settings.corpus:
        raise UsageError("perplexity.corpus names no file", hint='corpus = ["corpus.jsonl"]')
    corpus.read(settings.corpus)


def measure(subject: Scorer, settings: Settings, out: Path, progress: Progress) -> None:
    """Score the corpus, and keep the log-probability of every token."""
    if settings.window > subject.context:
        raise UsageError(
            f"perplexity.window = {settings.window} is more than the model's context",
            hint=f"set window = {subject.context} or less in the policy",
        )
    every = list(_rows(subject, settings))
    rows = [every[place] for place in corpus.spread(len(every), settings.windows)]
    scores = subject.score([row.tokens for row in rows], progress=progress)
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        subject={"vocabulary": subject.vocabulary, "context": subject.context},
        samples=(_sample(row, score) for row, score in zip(rows, scores, strict=True)),
    )


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Compare the same rows under both models; the row is the unit of chance."""
    before, after = (Evidence.read(folder, gate=NAME) for folder in (baseline, candidate))
    _see(before, "baseline")
    _see(after, "candidate")
    _learned(before)
    pairs = evidence.pair(before, after, same=("row", "tokens"))
    tokens = sum(ours["tokens"] for ours, _ in pairs)
    extra = [theirs["nll"] - ours["nll"] for ours, theirs in pairs]
    shift = math.fsum(extra) / tokens
    # A ratio of sums, made a mean of units: each deviates by what it adds beyond its share.
    scale = len(pairs) / tokens
    values = [
        shift + scale * (more - shift * ours["tokens"])
        for more, (ours, _) in zip(extra, pairs, strict=True)
    ]
    documents = [ours["document"] for ours, _ in pairs]
    bounds = mean_bounds(values, confidence=settings.confidence, clusters=documents, series=True)
    return (_verdict(bounds, pairs, settings),)


def _verdict(bounds: Bounds, pairs: Sequence[tuple[Sample, Sample]], settings: Settings) -> Verdict:
    before, after = (_perplexity([pair[side] for pair in pairs]) for side in (0, 1))
    tokens = sum(ours["tokens"] for ours, _ in pairs)
    changed = sum(
        a != b
        for ours, theirs in pairs
        for a, b in zip(ours["greedy"], theirs["greedy"], strict=True)
    )
    reach = bounds.high - bounds.value
    advice = settle(
        bounds, math.log1p(settings.margin), lambda more: bounds.value + reach / math.sqrt(more)
    )
    return Verdict(
        gate=NAME,
        worse_by=math.expm1(bounds.value),
        low=math.expm1(bounds.low),
        high=math.expm1(bounds.high),
        margin=settings.margin,
        units=bounds.units,
        unit="relative increase of perplexity",
        detail=f"perplexity {before:.4g} → {after:.4g} over {bounds.units} windows{advice}",
        numbers=(
            ("baseline perplexity", before),
            ("candidate perplexity", after),
            ("tokens", float(tokens)),
            ("documents", float(len({ours["document"] for ours, _ in pairs}))),
            ("standard error of log perplexity", bounds.error),
            ("share of tokens that won or lost first place", changed / tokens),
        ),
    )


def _rows(scorer: Scorer, settings: Settings) -> Iterator[Row]:
    head = (scorer.prefix,) if settings.prefix else ()
    room = settings.window - len(head)
    for tokens, starts in _streams(scorer, settings):
        spans = corpus.cut(len(tokens), room=room, stride=settings.stride or room, given=len(head))
        for span in spans:
            start, document = starts[bisect_right(starts, span.begin, key=itemgetter(0)) - 1]
            yield Row(
                unit=f"{document}+{span.begin - start}",
                document=document,
                tokens=(*head, *tokens[span.begin : span.end]),
                scored=span.scored,
            )


def _streams(
    scorer: Scorer, settings: Settings
) -> Iterator[tuple[list[int], list[tuple[int, str]]]]:
    """Yield what is cut in one go: tokens, and where among them each document begins."""
    lead = len(scorer.tokenize(""))  # what the tokenizer puts before any text
    joined: list[int] = []
    starts: list[tuple[int, str]] = []
    for document in corpus.read(settings.corpus):
        if settings.documents is Documents.APART:
            tokens = scorer.tokenize(document.text)
            yield tokens[lead if settings.prefix else 0 :], [(0, document.name)]
        else:
            tokens = scorer.tokenize(f"{document.text}\n\n")
            starts.append((len(joined), document.name))
            joined += tokens[lead if settings.prefix or joined else 0 :]
    if joined:
        yield joined, starts


def _sample(row: Row, score: TokenScores) -> Sample:
    # Nine digits give a float32 back exactly.
    logprobs = [float(f"{value:.9g}") for value in score.logprobs.tolist()[-row.scored :]]
    if any(value > 1e-3 for value in logprobs):
        raise EvidenceError(
            f"perplexity: a log-probability above zero in {row.unit}",
            hint="the scorer is broken: no verdict can be built on it",
        )
    return {
        "unit": row.unit,
        "document": row.document,
        "row": hashlib.sha256(json.dumps(row.tokens).encode()).hexdigest()[:16],
        "tokens": len(logprobs),
        "nll": -math.fsum(logprobs),
        "logprobs": logprobs,
        "greedy": "".join("01"[bool(hit)] for hit in score.greedy.tolist()[-row.scored :]),
    }


def _perplexity(samples: Sequence[Sample]) -> float:
    nll = math.fsum(sample["nll"] for sample in samples)
    return math.exp(min(nll / sum(sample["tokens"] for sample in samples), 700.0))


def _see(found: Evidence, whose: str) -> None:
    """Refuse an instrument that cannot see: it would find any two models equal."""
    if len({value for sample in found.samples for value in sample["logprobs"]}) < 2:
        raise EvidenceError(
            f"perplexity: void, all log-probabilities of the {whose} are the same",
            hint="the runtime does not score what it is given; try another one",
        )


def _learned(found: Evidence) -> None:
    """Refuse a baseline that knows no more of the corpus than a die would."""
    perplexity, vocabulary = _perplexity(found.samples), found.subject["vocabulary"]
    if perplexity >= vocabulary:
        raise EvidenceError(
            f"perplexity: void, the baseline's perplexity of {perplexity:.4g} is no better than"
            f" guessing among {vocabulary} tokens",
            hint="the checkpoint is damaged, or the corpus is not of its world",
        )
