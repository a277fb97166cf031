"""Log-probabilities of given tokens: batches of similar length, shared beginnings once.

A row's last token is only scored, never read, so rows that differ in it are one text. Texts that
begin alike, as few-shot questions do, read their beginning once and go on from its keys and values.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from builders.engine.embedded import prefixes
from builders.engine.embedded.cache import Beginning, Cache, Passing
from builders.engine.embedded.loader import Loaded
from builders.engine.embedded.prefixes import Text
from builders.errors import EvidenceError
from builders.progress import Progress

# Logits of one batch stay under 32 MB: larger ones are mapped afresh by the allocator each time,
# and first touches then cost more than the products (measured with 4096 tokens of vocabulary).
_LOGITS: Final = 1 << 23
_TOKENS: Final = 1 << 13
_FEWER: Final = 8  # how many times as many tokens fit where few of them have logits
_WORTH: Final = 1 << 10  # tokens that a shared beginning must save: passes cost time of their own


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """A row's tokens from the second on: ln p given all before it, and whether it came first."""

    logprobs: NDArray[np.float32]
    greedy: NDArray[np.bool_]


_NOTHING: Final = TokenScores(np.zeros(0, np.float32), np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The likeliest tokens at each place of a row from the second on, and ln p of each."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A beginning that was read: its keys and values, its own scores, what it says comes next."""

    cache: Cache
    length: int
    inside: TokenScores
    logprobs: NDArray[np.float32]
    best: float

    def then(self, token: int) -> TokenScores:
        """Score a token right after the beginning."""
        found = self.logprobs[token : token + 1]
        return TokenScores(found, found >= self.best)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What follows a text, in some row, and how many of those rows' last tokens are wanted."""

    ends: tuple[int, ...]
    wanted: int


Asked = Mapping[Text, _Asked]
Batch = dict[tuple[Text, int], TokenScores]  # by a text and the token that ends it


def score(
    loaded: Loaded,
    rows: Sequence[Sequence[int]],
    *,
    wanted: Sequence[int] | None = None,
    progress: Progress,
) -> list[TokenScores]:
    """Score rows; each batch is padded on the right, where causal attention never looks.

    ``wanted`` says how many of each row's last tokens matter: at least those have scores then.
    """
    ends: dict[Text, dict[int, None]] = defaultdict(dict)
    most: dict[Text, int] = defaultdict(int)
    for place, row in enumerate(rows):
        text = tuple(row[:-1])
        ends[text][row[-1]] = None
        most[text] = max(most[text], len(text) if wanted is None else min(wanted[place], len(text)))
    asked = {text: _Asked(tuple(tokens), most[text]) for text, tokens in ends.items() if text}
    found: Batch = {((), token): _NOTHING for token in ends.get((), ())}
    total, done = sum(map(len, rows)), 0
    for batch in _every(loaded, asked):
        progress("score", done, total, unit="tokens")
        found.update(batch)
        done = min(done + sum(len(text) + 1 for text, _ in batch), total)
    progress("score", total, total, unit="tokens")
    loaded.memory.forget()
    return [found[tuple(row[:-1]), row[-1]] for row in rows]


def distributions(
    loaded: Loaded, rows: Sequence[Sequence[int]], top: int, *, progress: Progress
) -> list[Choices]:
    """Return the ``top`` likeliest tokens at each place of each row from the second on."""
    found: dict[int, Choices] = {}
    texts = [tuple(row[:-1]) for row in rows]
    for places in _batches([max(len(text), 1) for text in texts], _budget(loaded)):
        progress("distributions", len(found), len(rows), unit="rows")
        tokens, logprobs = _likeliest(loaded, [texts[place] or (0,) for place in places], top)
        for line, place in enumerate(places):
            count = len(texts[place])
            _refuse_odd(logprobs[line, :count])
            found[place] = Choices(tokens[line, :count], logprobs[line, :count])
    loaded.memory.forget()
    return [found[place] for place in range(len(rows))]


@torch.inference_mode()
def _likeliest(
    loaded: Loaded, texts: Sequence[Text], top: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    logits = forward(loaded, _padded(loaded, texts))
    values, tokens = logits.topk(top, dim=-1)
    logprobs = values - logits.logsumexp(-1, keepdim=True)
    return tokens.int().cpu().numpy(), logprobs.cpu().numpy()


def _every(loaded: Loaded, asked: Asked) -> Iterator[Batch]:
    """Score all texts, batch by batch, those that begin alike from their beginning on."""
    texts = list(asked)
    for group in prefixes.grouped(texts, worth=_WORTH):
        members = [texts[place] for place in group.places]
        # Of a beginning that nobody asks about only its last word is needed: what comes next.
        inner = any(asked[text].wanted > len(text) - group.shared + 1 for text in members)
        start = _start(loaded, members[0][: group.shared], inner=inner)
        yield from _group(loaded, members, asked, start)


@torch.inference_mode()
def _start(loaded: Loaded, shared: Text, *, inner: bool) -> _Start:
    if not shared:
        nothing = np.zeros(0, np.float32)
        return _Start(Passing(loaded.kv_scales), 0, _NOTHING, nothing, 0.0)
    kept = Beginning(loaded.kv_scales)
    tokens = torch.tensor([shared], device=loaded.device)
    logits = loaded.logits(tokens, _positions(tokens, 0), kept, last=not inner)
    inside = _NOTHING
    if inner:
        logprobs, greedy, _, _ = _read(logits[:, :-1], tokens[:, 1:])
        inside = TokenScores(logprobs[0], greedy[0])
    last = logits[0, -1].log_softmax(-1)
    return _Start(kept, len(shared), inside, last.cpu().numpy(), float(last.max()))


def _group(loaded: Loaded, texts: Sequence[Text], asked: Asked, start: _Start) -> Iterator[Batch]:
    whole = [text for text in texts if len(text) == start.length]
    for text in whole:  # the beginning itself: at most one, as texts differ
        yield {(text, end): _joined(start.inside, start.then(end)) for end in asked[text].ends}
    longer = [text for text in texts if len(text) > start.length]
    few = all(asked[text].wanted < len(text) - start.length for text in longer)
    budget = min(_TOKENS, _FEWER * _budget(loaded)) if few else _budget(loaded)
    for places in _batches([len(text) - start.length for text in longer], budget):
        yield _batch(loaded, [longer[place] for place in places], asked, start)


@torch.inference_mode()
def _batch(loaded: Loaded, texts: Sequence[Text], asked: Asked, start: _Start) -> Batch:
    """Score texts from the start on; logits are computed only where some text asks for them."""
    tails = [text[start.length :] for text in texts]
    counts = [min(asked[text].wanted, len(tail)) for text, tail in zip(texts, tails, strict=True)]
    spans = [range(len(tail) - count, len(tail)) for tail, count in zip(tails, counts, strict=True)]
    columns = sorted({column for span in spans for column in span})
    padded = _padded(loaded, tails)
    logits = _logits(loaded, padded, start, columns)
    targets = functional.pad(padded[:, 1:], (0, 1))[:, columns]
    logprobs, greedy, sums, best = _read(logits, targets)
    found: Batch = {}
    for line, (text, span) in enumerate(zip(texts, spans, strict=True)):
        first, last = columns.index(span.start), columns.index(span.stop - 1)
        inside = TokenScores(logprobs[line, first:last], greedy[line, first:last])
        if start.length and span.start == 0:
            inside = _joined(start.inside, start.then(tails[line][0]), inside)
        wanted = torch.tensor(asked[text].ends, device=logits.device)
        values = logits[line, last, wanted].cpu().numpy()
        for end, value in zip(asked[text].ends, values, strict=True):
            ending = TokenScores(value[None] - sums[line, last], value[None] >= best[line, last])
            found[text, end] = _joined(inside, ending)
    return found


def _logits(loaded: Loaded, padded: Tensor, start: _Start, columns: Sequence[int]) -> Tensor:
    """Compute logits at some columns only: of large vocabularies they are most of the memory."""
    found: Tensor = loaded.module(
        input_ids=padded,
        attention_mask=start.cache.mask(),
        position_ids=_positions(padded, start.length),
        past_key_values=start.cache,
        use_cache=True,
        logits_to_keep=torch.tensor(columns, device=padded.device),
    ).logits
    return found.float()


def _read(logits: Tensor, targets: Tensor) -> tuple[NDArray[Any], ...]:
    """Return, of each target, ln p and whether none came before it; then sums and largest logits.

    The largest is found ten times faster than its place; two that are equal both come first.
    """
    sums, best = logits.logsumexp(-1), logits.amax(-1)
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return tuple(part.cpu().numpy() for part in (chosen - sums, chosen >= best, sums, best))


def _joined(*parts: TokenScores) -> TokenScores:
    joined = TokenScores(
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.greedy for part in parts]),
    )
    _refuse_odd(joined.logprobs)
    return joined


def _budget(loaded: Loaded) -> int:
    return max(1, min(_TOKENS, _LOGITS // loaded.vocabulary))


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut rows, longest first, into batches whose padded tokens fit the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(loaded: Loaded, texts: Sequence[Text]) -> Tensor:
    width = max(map(len, texts))
    padded = [[*text, *[0] * (width - len(text))] for text in texts]
    return torch.tensor(padded).to(loaded.device)


def _positions(tokens: Tensor, first: int) -> Tensor:
    return torch.arange(first, first + tokens.shape[1], device=tokens.device).expand_as(tokens)


def forward(loaded: Loaded, tokens: Tensor) -> Tensor:
    """Compute the float32 logits of whole sequences."""
    return loaded.logits(tokens, _positions(tokens, 0), Passing(loaded.kv_scales))


def _refuse_odd(logprobs: NDArray[np.float32]) -> None:
    if not np.isfinite(logprobs).all():
        raise EvidenceError(
            "the model computed log-probabilities that are not finite",
            hint="look for broken scales: inspect the checkpoint, then quantize again",
        )
