"""Scorers that stand in for the embedded runtime: one of pure arithmetic, one on transformers.

``Arithmetic`` needs no model: bytes are its tokens and its opinion of a byte depends on the byte
before, so it is deterministic, has a perplexity far below uniform, and can be made worse by a
known amount.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from builders.progress import Progress, silent


@dataclass(frozen=True)
class Scores:
    logprobs: np.ndarray
    greedy: np.ndarray


@dataclass(frozen=True)
class Likely:
    tokens: np.ndarray
    logprobs: np.ndarray


class Arithmetic:
    """Bytes are tokens; ``harm`` nats are taken from every token, and ``noise`` scatters them."""

    vocabulary = 256
    prefix = 0

    def __init__(self, *, context: int = 512, harm: float = 0.0, noise: float = 0.0) -> None:
        self.context = context
        self._harm = harm
        self._noise = noise
        self._dice = random.Random(1)

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def score(self, rows: Sequence[Sequence[int]], *, progress: Progress = silent) -> list[Scores]:
        found = []
        for done, row in enumerate(rows):
            assert len(row) <= self.context
            values = [self._opinion(a, b) for a, b in pairwise(row)]
            found.append(Scores(np.array(values, np.float32), np.array(values) > -1.0))
            progress("scoring", done + 1, len(rows), unit="rows")
        return found

    def distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> list["Likely"]:
        """The opinions of all bytes, made to sum to one; noise reaches them, harm does not."""
        found = []
        for row in rows:
            places = []
            for before in row[:-1]:
                raw = np.array([self._opinion(before, token) for token in range(self.vocabulary)])
                logprobs = raw - np.log(np.exp(raw).sum())
                best = np.argsort(-logprobs, kind="stable")[:top]
                places.append((best.tolist(), logprobs[best].tolist()))
            found.append(Likely(*(np.array(part) for part in zip(*places, strict=True))))
        return found

    def _opinion(self, before: int, token: int) -> float:
        likely = 0.05 + 0.9 * ((before * 31 + token * 17) % 97) / 97
        return min(math.log(likely) - self._harm - self._noise * abs(self._dice.gauss(0, 1)), 0.0)


class Broken:
    """Wraps a scorer and replaces every log-probability: a runtime that does not look."""

    def __init__(self, scorer: Arithmetic, value: float) -> None:
        self._scorer = scorer
        self._value = value
        self.context, self.vocabulary, self.prefix = scorer.context, 256, 0
        self.tokenize = scorer.tokenize

    def score(self, rows: Sequence[Sequence[int]], *, progress: Progress = silent) -> list[Scores]:
        found = self._scorer.score(rows, progress=progress)
        return [Scores(np.full_like(one.logprobs, self._value), one.greedy) for one in found]


class Transformers:
    """The plain model of a checkpoint in float32, as transformers runs it, in batches of 8 rows."""

    def __init__(self, checkpoint: Path, *, lead: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.context = self.model.config.max_position_embeddings
        self.vocabulary = self.model.config.vocab_size
        self.prefix = self.tokenizer.bos_token_id
        self._lead = [self.prefix] if lead else []

    def tokenize(self, text: str) -> list[int]:
        return [*self._lead, *self.tokenizer.encode(text)]

    def score(self, rows: Sequence[Sequence[int]], *, progress: Progress = silent) -> list[Scores]:
        import torch

        found: dict[int, Scores] = {}
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        for begin in range(0, len(order), 8):
            places = order[begin : begin + 8]
            longest = len(rows[places[0]])
            batch = torch.zeros(len(places), longest, dtype=torch.long)
            for line, place in enumerate(places):
                batch[line, : len(rows[place])] = torch.tensor(rows[place])
            with torch.inference_mode():
                logits = self.model(batch).logits.float().log_softmax(-1)
            for line, place in enumerate(places):
                tokens = batch[line, 1 : len(rows[place])]
                mine = logits[line, : len(tokens)]
                values = mine.gather(1, tokens[:, None])[:, 0]
                found[place] = Scores(values.numpy(), (mine.argmax(-1) == tokens).numpy())
            progress("scoring", begin + len(places), len(rows), unit="rows")
        return [found[place] for place in range(len(rows))]
