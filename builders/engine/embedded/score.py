"""Log-probabilities of given tokens, in batches of rows of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from builders.engine.embedded.cache import Passing
from builders.engine.embedded.loader import Loaded
from builders.errors import EvidenceError
from builders.progress import Progress

# Logits of one batch stay under 32 MB: larger ones are mapped afresh by the allocator each time,
# and first touches then cost more than the products (measured with 4096 tokens of vocabulary).
_LOGITS: Final = 1 << 23
_TOKENS: Final = 1 << 13


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """A row's tokens from the second on: ln p given all before it, and whether it came first."""

    logprobs: NDArray[np.float32]
    greedy: NDArray[np.bool_]


def score(
    loaded: Loaded, rows: Sequence[Sequence[int]], *, progress: Progress
) -> list[TokenScores]:
    """Score rows; each batch is padded on the right, where causal attention never looks."""
    budget = max(1, min(_TOKENS, _LOGITS // loaded.vocabulary))
    total = sum(len(row) for row in rows)
    found: dict[int, TokenScores] = {}
    done = 0
    for batch in _batches([len(row) for row in rows], budget):
        progress("score", done, total, unit="tokens")
        scored = _batch(loaded, [rows[index] for index in batch])
        found.update(zip(batch, scored, strict=True))
        done += sum(len(rows[index]) for index in batch)
    progress("score", total, total, unit="tokens")
    loaded.memory.forget()
    return [found[index] for index in range(len(rows))]


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


@torch.inference_mode()
def _batch(loaded: Loaded, rows: Sequence[Sequence[int]]) -> list[TokenScores]:
    width = max(len(row) for row in rows)
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]).to(loaded.device)
    if width == 1:
        return [_scores(padded[0, :0].float(), padded[0, :0].bool()) for _ in rows]
    logits = forward(loaded, padded[:, :-1])
    targets = padded[:, 1:]
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    logprobs, greedy = chosen - logits.logsumexp(-1), logits.argmax(-1) == targets
    ends = [len(row) - 1 for row in rows]
    return [_scores(logprobs[i, :end], greedy[i, :end]) for i, end in enumerate(ends)]


def forward(loaded: Loaded, tokens: Tensor) -> Tensor:
    """Compute the float32 logits of whole sequences."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return loaded.logits(tokens, positions, Passing(loaded.kv_scales))


def _scores(logprobs: Tensor, greedy: Tensor) -> TokenScores:
    if not bool(torch.isfinite(logprobs).all()):
        raise EvidenceError(
            "the model computed log-probabilities that are not finite",
            hint="look for broken scales: inspect the checkpoint, then quantize again",
        )
    return TokenScores(logprobs.float().cpu().numpy(), greedy.cpu().numpy())


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
