"""Batches are as large as memory takes, found where running out of it costs nothing."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from builders.errors import ToolError
from builders.quantize.backends import load

load("modelopt")  # it warns of itself where it is imported first

from builders.quantize.loop import batched, fitting, forward, hidden  # noqa: E402


class Small(nn.Module):
    """A model that runs out of memory above so many tokens."""

    def __init__(self, most):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.most = most
        self.tried = []

    def forward(self, tokens, *, use_cache):
        self.tried.append(tokens.numel())
        if tokens.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return SimpleNamespace(logits=tokens.float())


def test_the_largest_batch_that_runs_is_found_by_halves_and_half_of_it_is_taken():
    model = Small(most=3000)
    rows = [[1] * 256 for _ in range(64)]
    assert fitting(model, rows, forward, most=16384) == 1024
    assert model.tried == [16384, 8192, 4096, 2048]


def test_a_single_row_that_does_not_fit_is_told_with_its_length():
    with pytest.raises(
        ToolError, match="one calibration text of 512 tokens does not fit"
    ) as caught:
        fitting(Small(most=100), [[1] * 512, [1] * 64], forward, most=4096)
    assert "quantize.calibration.length" in caught.value.hint


def test_rows_shorter_than_a_batch_are_fed_together_on_a_cpu():
    batches = batched(Small(most=1 << 30), [[1] * 64 for _ in range(200)])
    assert [len(batch) for batch in batches] == [64, 64, 64, 8]


def test_calibration_computes_the_logits_of_last_tokens_only():
    body = Small(most=1 << 30)
    body.forward = lambda tokens, *, use_cache: (tokens[..., None].float(),)
    model = Small(most=0)  # its own forward, which makes all logits, would run out of memory
    model.base_model = body
    model.get_output_embeddings = lambda: lambda states: states * 10
    states, logits = hidden(model, [[1, 2], [3, 4]])
    assert states.tolist() == [[[1], [2]], [[3], [4]]]
    assert logits.tolist() == [[20], [40]]
