"""Scores are the model's own log-probabilities, whatever rows stand beside a row."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from builders.engine.embedded import score as scoring
from builders.engine.embedded.model import Embedded
from builders.errors import EvidenceError
from builders.formats import Format
from fakes.checkpoints import DEMO

TEXT = "Return a list of the names in the current scope. If the argument has a method named"


def expected_scores(model, row):
    with torch.inference_mode():
        logits = model(torch.tensor([row])).logits[0].float()
    targets = torch.tensor(row[1:])
    logprobs = logits[:-1].log_softmax(-1)
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return chosen.numpy(), (logits[:-1].argmax(-1) == targets).numpy()


def test_the_demo_model_scores_as_plain_transformers_does(make_engine):
    with Embedded.load(make_engine(DEMO, context=512, dtype=Format.FP32), device="cpu") as model:
        rows = [model.tokenize(TEXT), model.tokenize(TEXT)[5:]]
        found = model.score(rows)
    theirs = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    for row, scores in zip(rows, found, strict=True):
        logprobs, greedy = expected_scores(theirs, row)
        assert scores.logprobs.dtype == np.float32
        np.testing.assert_allclose(scores.logprobs, logprobs, atol=2e-4)
        assert scores.greedy.tolist() == greedy.tolist()


def test_bfloat16_scores_stay_near_float32(demo, make_engine):
    row = demo.tokenize(TEXT)
    theirs = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    wide, _ = expected_scores(theirs, row)
    (found,) = demo.score([row])
    assert abs(found.logprobs.mean() - wide.mean()) < 0.01


def rows_of(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, 4000, length).tolist() for length in lengths]


def test_results_do_not_depend_on_company_or_order(tiny, monkeypatch):
    rows = rows_of(3, 90, 17, 1, 64, 2, 33)
    together = tiny.score(rows)
    backwards = tiny.score(rows[::-1])[::-1]
    monkeypatch.setattr(scoring, "_TOKENS", 100)
    few = tiny.score(rows)
    alone = [tiny.score([row])[0] for row in rows]
    for other in (backwards, few, alone):
        for first, second in zip(together, other, strict=True):
            np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-4)
            assert first.greedy.tolist() == second.greedy.tolist()


def test_a_row_of_n_tokens_has_n_minus_one_scores(tiny):
    found = tiny.score(rows_of(1, 2, 128))
    assert [len(scores.logprobs) for scores in found] == [0, 1, 127]
    assert tiny.score(rows_of(1))[0].logprobs.tolist() == []
    assert tiny.score([]) == []


def test_batches_are_packed_within_the_budget():
    lengths = [5, 50, 30, 7, 100]
    batches = list(scoring._batches(lengths, 64))
    assert sorted(i for batch in batches for i in batch) == list(range(5))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64


def test_progress_is_told_in_tokens(tiny):
    heard = []
    tiny.score(rows_of(8, 9), progress=lambda *said, unit: heard.append((*said, unit)))
    assert heard[0] == ("score", 0, 17, "tokens")
    assert heard[-1] == ("score", 17, 17, "tokens")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "row 1 has no tokens"),
        ([5] * 129, "row 1 has 129 tokens, the engine's context is 128"),
        ([5, 4096], "outside the vocabulary of 4096"),
        ([-1, 5], "outside the vocabulary"),
    ],
)
def test_rows_that_cannot_be_scored_whole_are_refused(tiny, row, said):
    with pytest.raises(EvidenceError, match=said):
        tiny.score([[1, 2], row])


def test_numbers_that_are_not_finite_are_no_evidence(checkpoint, make_engine):
    with Embedded.load(make_engine(checkpoint), device="cpu") as model:
        model._loaded.module.model.norm.weight.data[3] = torch.nan
        with pytest.raises(EvidenceError, match="not finite"):
            model.score([[1, 2, 3]])
