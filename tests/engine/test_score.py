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
        ([5] * 129, "row 1 has 129 tokens, the model's context is 128"),
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


def few_shot(subjects=2, questions=5, choices=4):
    """Rows as few-shot tasks make them: long common examples, a question, a choice of one token."""
    made = []
    for subject in range(subjects):
        (shots,) = rows_of(60, seed=subject)
        for question in rows_of(*range(3, 3 + questions), seed=subject + 50):
            made += [[*shots, *question, choice] for choice in range(10, 10 + choices)]
        made.append([*shots, 7])  # the examples themselves, with an end
        made.append(shots[:-1])
        made.append([*shots, 7, 8, 9, 10])  # a choice of several tokens
    return made


def test_rows_that_begin_alike_score_as_each_alone(tiny, monkeypatch):
    rows = [*few_shot(), *rows_of(5, 9), [4], [4]]
    monkeypatch.setattr(scoring, "_WORTH", 1 << 30)
    alone = [tiny.score([row])[0] for row in rows]
    monkeypatch.setattr(scoring, "_WORTH", 10)
    passes = []
    whole = tiny._loaded.module.forward
    monkeypatch.setattr(
        tiny._loaded.module, "forward",
        lambda **given: passes.append(given["input_ids"].shape) or whole(**given),
    )  # fmt: skip
    for found, expected in zip(tiny.score(rows), alone, strict=True):
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
        assert found.greedy.tolist() == expected.greedy.tolist()
    computed = sum(lines * width for lines, width in passes)
    assert computed < sum(map(len, rows)) / 8


@pytest.mark.parametrize("worth", [10, 1 << 30])
def test_the_last_tokens_score_the_same_when_only_they_are_asked_for(tiny, monkeypatch, worth):
    monkeypatch.setattr(scoring, "_WORTH", worth)
    rows = [*few_shot(), *rows_of(5, 9), [4]]
    for few in (1, 3, 64, 999):
        wanted = [few + place % 2 for place in range(len(rows))]
        for row, asked, full, ends in zip(
            rows, wanted, tiny.score(rows), tiny.score_ends(rows, wanted), strict=True
        ):
            count = min(asked, len(row) - 1)
            assert len(ends.logprobs) >= count
            last = slice(len(row) - 1 - count, None)
            np.testing.assert_allclose(
                ends.logprobs[len(ends.logprobs) - count :], full.logprobs[last], atol=1e-4
            )
            greedy = ends.greedy[len(ends.greedy) - count :]
            assert greedy.tolist() == full.greedy[last].tolist()


def test_a_shared_beginning_is_rounded_as_a_narrow_cache_rounds_it(make_engine, monkeypatch):
    engine = make_engine(DEMO, context=256, dtype=Format.FP32, kv_cache=Format.FP8)
    with Embedded.load(engine, device="cpu") as model:
        rows = few_shot()
        monkeypatch.setattr(scoring, "_WORTH", 1 << 30)
        apart = model.score(rows)
        monkeypatch.setattr(scoring, "_WORTH", 10)
        for found, expected in zip(model.score(rows), apart, strict=True):
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=2e-3)


def test_distributions_are_the_likeliest_tokens_of_each_place(demo):
    rows = [demo.tokenize(TEXT), demo.tokenize(TEXT)[:7], [5]]
    found = demo.distributions(rows, 4)
    for row, scores, likely in zip(rows, demo.score(rows), found, strict=True):
        assert likely.tokens.shape == likely.logprobs.shape == (len(row) - 1, 4)
        assert (np.diff(likely.logprobs, axis=-1) <= 0).all()
        first = likely.tokens[:, 0] == np.array(row[1:], dtype=int)
        assert first.tolist() == scores.greedy.tolist()
        np.testing.assert_allclose(
            likely.logprobs[first, 0], scores.logprobs[scores.greedy], atol=1e-4
        )
    assert demo.distributions(rows, 4096)[1].logprobs[0].astype(float).sum() < 0
    np.testing.assert_allclose(
        np.exp(demo.distributions(rows, 4096)[1].logprobs).sum(-1), 1, atol=1e-4
    )


def test_distributions_refuse_what_scores_refuse(tiny):
    with pytest.raises(EvidenceError, match="outside the vocabulary"):
        tiny.distributions([[5, 4096]], 2)
