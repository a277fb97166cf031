"""Choosing a token from logits, each request with its own random numbers."""

from typing import Final

import torch
from torch import Tensor

from builders.engine.embedded.types import Sampling

_LEAST: Final = 1e-6  # temperatures below leave nothing but the likeliest, and float32 no numbers


class Chooser:
    """Draws one request's tokens; the same seed draws the same, whoever runs beside it."""

    def __init__(self, sampling: Sampling) -> None:
        """Seed the request's own generator, on the CPU, where every device draws alike."""
        self._sampling = sampling
        self.greedy = sampling.temperature < _LEAST
        self._random = torch.Generator().manual_seed(sampling.seed)

    def choose(self, logits: Tensor) -> int:
        """Draw from one row of float32 logits on the CPU."""
        below = logits - logits.max()  # or a low temperature makes infinities of large logits
        weights = torch.softmax(below / self._sampling.temperature, -1)
        ordered, tokens = weights.sort(descending=True, stable=True)
        kept = self._kept(ordered)
        drawn = torch.multinomial(ordered[:kept], 1, generator=self._random)
        return int(tokens[drawn])

    def _kept(self, ordered: Tensor) -> int:
        """Count the likeliest tokens that top_k and top_p leave; the first always stays."""
        kept = min(self._sampling.top_k or len(ordered), len(ordered))
        if self._sampling.top_p < 1:
            before = ordered.cumsum(-1) - ordered
            kept = min(kept, int((before < self._sampling.top_p).sum()))
        return max(kept, 1)
