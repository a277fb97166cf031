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
    best: int

    def then(self, token: int) -> TokenScores:
        """Score a token right after the beginning."""
        return TokenScores(self.logprobs[token : token + 1], np.array([token == self.best]))


Ends = Mapping[Text, Sequence[int]]  # what follows each text, in some row
Batch = dict[tuple[Text, int], TokenScores]  # by a text and the token that ends it


def score(
    loaded: Loaded, rows: Sequence[Sequence[int]], *, progress: Progress
) -> list[TokenScores]:
    """Score rows; each batch is padded on the right, where causal attention never looks."""
    ends: dict[Text, dict[int, None]] = defaultdict(dict)
    for row in rows:
        ends[tuple(row[:-1])][row[-1]] = None
    known = {text: tuple(tokens) for text, tokens in ends.items() if text}
    found: Batch = {((), token): _NOTHING for token in ends.get((), ())}
    total, done = sum(map(len, rows)), 0
    for batch in _every(loaded, known):
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


def _every(loaded: Loaded, ends: Ends) -> Iterator[Batch]:
    """Score all texts, batch by batch, those that begin alike from their beginning on."""
    texts = list(ends)
    for group in prefixes.grouped(texts, worth=_WORTH):
        members = [texts[place] for place in group.places]
        start = _start(loaded, members[0][: group.shared])
        yield from _group(loaded, members, ends, start)


@torch.inference_mode()
def _start(loaded: Loaded, shared: Text) -> _Start:
    if not shared:
        cache = Passing(loaded.kv_scales)
        return _Start(cache, 0, _NOTHING, np.zeros(0, np.float32), -1)
    kept = Beginning(loaded.kv_scales)
    tokens = torch.tensor([shared], device=loaded.device)
    logits = loaded.logits(tokens, _positions(tokens, 0), kept)
    logprobs, greedy, _, _ = _read(logits, tokens)
    last = logits[0, -1].log_softmax(-1)
    return _Start(
        kept,
        len(shared),
        TokenScores(logprobs[0], greedy[0]),
        last.cpu().numpy(),
        int(last.argmax()),
    )


def _group(loaded: Loaded, texts: Sequence[Text], ends: Ends, start: _Start) -> Iterator[Batch]:
    whole = [text for text in texts if len(text) == start.length]
    for text in whole:  # the beginning itself: at most one, as texts differ
        yield {(text, end): _joined(start.inside, start.then(end)) for end in ends[text]}
    longer = [text for text in texts if len(text) > start.length]
    for places in _batches([len(text) - start.length for text in longer], _budget(loaded)):
        yield _batch(loaded, [longer[place] for place in places], ends, start)


@torch.inference_mode()
def _batch(loaded: Loaded, texts: Sequence[Text], ends: Ends, start: _Start) -> Batch:
    tails = [text[start.length :] for text in texts]
    padded = _padded(loaded, tails)
    logits = loaded.logits(padded, _positions(padded, start.length), start.cache)
    logprobs, greedy, sums, best = _read(logits, padded)
    found: Batch = {}
    for line, (text, tail) in enumerate(zip(texts, tails, strict=True)):
        last = len(tail) - 1
        inside = TokenScores(logprobs[line, :last], greedy[line, :last])
        if start.length:
            inside = _joined(start.inside, start.then(tail[0]), inside)
        wanted = torch.tensor(ends[text], device=logits.device)
        values = logits[line, last, wanted].cpu().numpy() - sums[line, last]
        for end, value in zip(ends[text], values, strict=True):
            ending = TokenScores(np.array([value], np.float32), np.array([best[line, last] == end]))
            found[text, end] = _joined(inside, ending)
    return found


def _read(logits: Tensor, tokens: Tensor) -> tuple[NDArray[Any], ...]:
    """Return, of each token but the first, ln p and whether it came first; then sums and bests."""
    sums, best = logits.logsumexp(-1), logits.argmax(-1)
    chosen = logits[:, :-1].gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    parts = (chosen - sums[:, :-1], best[:, :-1] == tokens[:, 1:], sums, best)
    return tuple(part.cpu().numpy() for part in parts)


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


def check_rows(rows: Sequence[Sequence[int]], *, context: int, vocabulary: int) -> None:
    """Refuse rows that cannot be scored whole: nothing is ever cut off."""
    for number, row in enumerate(rows):
        if not row:
            raise EvidenceError(f"row {number} has no tokens", hint="leave empty texts out")
        if len(row) > context:
            raise EvidenceError(
                f"row {number} has {len(row)} tokens, the engine's context is {context}",
                hint="score shorter rows, or raise context in [serve]",
            )
        if min(row) < 0 or max(row) >= vocabulary:
            raise EvidenceError(
                f"row {number} has a token outside the vocabulary of {vocabulary}",
                hint="tokenize with this engine's own tokenizer",
            )
