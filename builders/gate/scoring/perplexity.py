"""Perplexity gate: may the candidate's perplexity stand in for the baseline's?

Both models score the same rows of tokens; what counts is the difference row by row, weighted by
tokens, so that its mean is the logarithm of the ratio of the two perplexities. Beside that a few
rows keep what else the models would have said: how far their opinions lie apart, against how far
the baseline lies from itself.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Final, cast

from builders.errors import EvidenceError, UsageError
from builders.gate import Choices, Distributing, evidence
from builders.gate.evidence import Evidence, Sample
from builders.gate.scoring import corpus, divergence, packed, windows
from builders.gate.scoring.corpus import Source
from builders.gate.scoring.divergence import Divergence
from builders.gate.scoring.windows import Documents, Row
from builders.gate.statistics.intervals import Bounds, mean_bounds, needed, settle
from builders.parse import Table
from builders.progress import Progress
from builders.scorer import Scorer, TokenScores
from builders.verdict import Verdict

NAME: Final = "perplexity"
NEEDS: Final = "scorer"
FORM: Final = 2  # raised when the same settings would measure something else
TOP: Final = 16  # how many of the likeliest tokens of a place are kept

Pairs = Sequence[tuple[Sample, Sample]]
Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to score, and the largest relative increase of perplexity that is called none.

    ``window`` is the length of a row, ``stride`` how far apart rows begin (0: end to end),
    ``windows`` how many rows to take, evenly spread (0: all). With ``prefix`` each row begins with
    the model's first token, as a served prompt does. ``controls`` rows try the instrument and keep
    what else was likely; more than ``flips`` changed first choices raise an alarm. ``few`` is set
    for a control only: it measures so many of the rows.
    """

    corpus: tuple[Source, ...]
    documents: Documents
    window: int
    stride: int
    windows: int
    prefix: bool
    controls: int
    flips: float
    margin: float
    confidence: float
    few: int = 0


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; relative files lie in the folder ``beside``."""
    with table:
        documents = table.choice("documents", Documents, Documents.APART)
        settings = Settings(
            corpus=tuple(corpus.source(name, beside=beside) for name in table.texts("corpus")),
            documents=documents,
            window=table.whole("window", 2048, least=2),
            stride=table.whole("stride", 512 if documents is Documents.STRIDED else 0),
            windows=table.whole("windows", 0),
            prefix=table.flag("prefix", default=False),
            controls=table.whole("controls", 16, least=4),
            flips=table.number("flips", 0.10),
            margin=table.number("margin", 0.01),
            confidence=confidence,
        )
    _refuse_odd(settings)
    return settings


def _refuse_odd(settings: Settings) -> None:
    if settings.stride > settings.window - settings.prefix:
        raise UsageError(
            f"perplexity: a stride of {settings.stride} leaves out tokens between the windows",
            hint=f"choose at most {settings.window - settings.prefix}",
        )
    if settings.documents is Documents.GPTQ and (settings.prefix or settings.stride):
        raise UsageError(
            "perplexity: the form gptq has windows end to end and no prefix",
            hint='leave stride and prefix out, or choose documents = "strided" or "joined"',
        )


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    found: dict[str, object] = {
        "form": FORM,
        "corpus": [corpus.key(source) for source in settings.corpus],
        "documents": settings.documents.value,
        "window": settings.window,
        "stride": settings.stride,
        "windows": settings.windows,
        "prefix": settings.prefix,
        "controls": settings.controls,
        "top": TOP,
    }
    return found | ({"few": settings.few} if settings.few else {})


def check(settings: Settings) -> None:
    """Refuse a corpus that cannot be read."""
    if not settings.corpus:
        raise UsageError("perplexity.corpus names no file", hint='corpus = ["corpus.jsonl"]')
    corpus.check(settings.corpus)


def few(settings: Settings) -> Settings:
    """Return the settings under which a control is measured."""
    return replace(settings, few=settings.controls)


def measure(subject: Scorer, settings: Settings, out: Path, progress: Progress) -> None:
    """Score the corpus, and keep the log-probability of every token."""
    if settings.window > subject.context:
        raise UsageError(
            f"perplexity.window = {settings.window} is more than the model's context",
            hint=f"set window = {subject.context} or less in the policy",
        )
    every = list(windows.rows(subject, settings))
    rows = [every[place] for place in corpus.spread(len(every), settings.windows)]
    tried = [rows[place] for place in corpus.spread(len(rows), settings.controls)]
    rows = tried if settings.few else rows
    scores = subject.score([row.tokens for row in rows], progress=progress)
    tops = dict(zip((row.unit for row in tried), _tops(subject, tried, progress), strict=True))
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        subject={"vocabulary": subject.vocabulary, "context": subject.context},
        samples=(
            _sample(row, score, tops.get(row.unit)) for row, score in zip(rows, scores, strict=True)
        ),
    )


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Compare the same rows under both models; the row is the unit of chance."""
    before, after = (Evidence.read(folder, gate=NAME) for folder in (baseline, candidate))
    sound(before, after)
    return compare(before, after, settings)


def sound(before: Evidence, after: Evidence) -> None:
    """Refuse an instrument that was blind, and a baseline that knows nothing."""
    _see(before, "baseline")
    _see(after, "candidate")
    _learned(before)


def compare(
    before: Evidence,
    after: Evidence,
    settings: Settings,
    *,
    again: Evidence | None = None,
    more: float = 1.0,
) -> tuple[Verdict, ...]:
    """Judge two measurements, as if there had been ``more`` times as many rows of the kind."""
    pairs = evidence.pair(before, after, same=("row", "tokens"))
    tokens = sum(ours["tokens"] for ours, _ in pairs)
    extra = [_nll(theirs) - _nll(ours) for ours, theirs in pairs]
    shift = math.fsum(extra) / tokens
    # A ratio of sums, made a mean of units: each deviates by what it adds beyond its share.
    scale = len(pairs) / tokens
    values = [
        shift + scale * (added - shift * ours["tokens"])
        for added, (ours, _) in zip(extra, pairs, strict=True)
    ]
    documents = [ours["document"] for ours, _ in pairs]
    bounds = mean_bounds(values, confidence=settings.confidence, clusters=documents, series=True)
    reach = (bounds.high - bounds.value) / math.sqrt(more)
    bounds = replace(bounds, low=bounds.value - reach, high=bounds.value + reach)
    floor = evidence.pair(before.only(again), again, same=("row", "tokens")) if again else ()
    return (_verdict(bounds, pairs, floor, settings),)


def apart(before: Evidence, after: Evidence) -> Divergence | None:
    """Say how far the opinions lie apart on the units that both have; None where not kept."""
    return divergence.between(evidence.pair(before.only(after), after.only(before)))


def _verdict(bounds: Bounds, pairs: Pairs, floor: Pairs, settings: Settings) -> Verdict:
    before, after = (_perplexity([pair[side] for pair in pairs]) for side in (0, 1))
    margin, reach = math.log1p(settings.margin), bounds.high - bounds.value

    def high(more: float) -> float:
        return bounds.value + reach / math.sqrt(more)

    numbers, alarm = _opinions(pairs, floor, settings)
    advice = settle(bounds, margin, high)
    return Verdict(
        gate=NAME,
        worse_by=math.expm1(min(bounds.value, 700.0)),
        low=math.expm1(min(bounds.low, 700.0)),
        high=math.expm1(min(bounds.high, 700.0)),
        margin=settings.margin,
        units=bounds.units,
        unit="relative increase of perplexity",
        detail=f"perplexity {before:.4g} → {after:.4g} over {bounds.units} windows{advice}{alarm}",
        needed=needed(bounds, margin, high),
        numbers=(
            ("baseline perplexity", before),
            ("candidate perplexity", after),
            ("tokens", float(sum(ours["tokens"] for ours, _ in pairs))),
            ("documents", float(len({ours["document"] for ours, _ in pairs}))),
            ("standard error of log perplexity", bounds.error),
            ("share of tokens that won or lost first place", _changed(pairs)),
            *numbers,
        ),
    )


def _opinions(pairs: Pairs, floor: Pairs, settings: Settings) -> tuple[Numbers, str]:
    """Return what is shown of divergence and flips, and an alarm where there are too many."""
    found = divergence.between(pairs)
    if found is None:
        return (), ""
    own = divergence.between(floor)
    numbers: Numbers = (
        ("divergence from the baseline, at least [nats]", found.nats),
        ("share of first choices that changed", found.flips),
    )
    if own:
        numbers += (
            ("divergence of the baseline from itself, at least [nats]", own.nats),
            ("first choices of the baseline that changed when measured twice", own.flips),
        )
    most = max(settings.flips, 3 * own.flips if own else 0.0)
    alarm = f"; alarm: {found.flips:.1%} of the first choices changed, {most:.1%} are usual"
    return numbers, alarm if found.flips > most else ""


def _changed(pairs: Pairs) -> float:
    changed: int = sum(
        a != b
        for ours, theirs in pairs
        for a, b in zip(ours["greedy"], theirs["greedy"], strict=True)
    )
    return changed / sum(int(ours["tokens"]) for ours, _ in pairs)


def _tops(
    subject: Scorer, rows: Sequence[Row], progress: Progress
) -> Iterator[Mapping[str, Any] | None]:
    """Yield what else was likely in each row; None where the runtime does not tell."""
    if not hasattr(subject, "distributions"):
        return repeat(None, len(rows))
    told = cast("Distributing", subject).distributions(
        [row.tokens for row in rows], min(TOP, subject.vocabulary), progress=progress
    )
    return map(_top, rows, told)


def _top(row: Row, told: Choices) -> Mapping[str, Any]:
    tokens, logprobs = told.tokens.tolist()[-row.scored :], told.logprobs.tolist()[-row.scored :]
    return divergence.pack(tokens, logprobs)


def _sample(row: Row, score: TokenScores, top: Mapping[str, Any] | None) -> Sample:
    logprobs = [float(value) for value in score.logprobs.tolist()[-row.scored :]]
    if not all(math.isfinite(value) for value in logprobs):
        raise EvidenceError(
            f"perplexity: a score in {row.unit} is not a finite number",
            hint="the model computes NaN or infinity: look at its scales",
        )
    if any(value > 1e-3 for value in logprobs):
        raise EvidenceError(
            f"perplexity: a log-probability above zero in {row.unit}",
            hint="the scorer is broken: no verdict can be built on it",
        )
    sample: dict[str, Any] = {
        "unit": row.unit,
        "document": row.document,
        "row": hashlib.sha256(json.dumps(row.tokens).encode()).hexdigest()[:16],
        "tokens": len(logprobs),
        "nll": -math.fsum(logprobs),
        "logprobs": packed.floats(logprobs),
        "greedy": "".join("01"[bool(hit)] for hit in score.greedy.tolist()[-row.scored :]),
    }
    return sample | ({"top": top} if top else {})


def _logprobs(sample: Sample) -> list[float]:
    """Unpack a unit's log-probabilities; what is none is no evidence."""
    try:
        values = packed.unpacked_floats(sample["logprobs"])
    except (ValueError, TypeError, KeyError) as error:
        raise EvidenceError(
            f"perplexity: no log-probabilities in {sample['unit']}: {error}", hint="measure again"
        ) from error
    if len(values) != sample["tokens"] or not all(map(math.isfinite, values)):
        raise EvidenceError(
            f"perplexity: not a finite number for each token of {sample['unit']}",
            hint="measure again",
        )
    return values


def _nll(sample: Sample) -> float:
    return -math.fsum(_logprobs(sample))


def _perplexity(samples: Sequence[Sample]) -> float:
    nll = math.fsum(map(_nll, samples))
    return math.exp(min(nll / sum(sample["tokens"] for sample in samples), 700.0))


def _see(found: Evidence, whose: str) -> None:
    """Refuse an instrument that cannot see: it would find any two models equal."""
    values = {value for sample in found.samples for value in _logprobs(sample)}
    if len(values) < 2:
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
