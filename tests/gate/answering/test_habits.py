"""What answers show besides being right is seen in evidence, bounded, and judged on request."""

import random

import pytest

from builders.errors import EvidenceError
from builders.gate.answering.habits import HABITS, Trial, ends
from builders.verdict import Outcome


def sample(unit, text="fine", tokens=10, finish="stop"):
    return {"unit": unit, "answers": [{"text": text, "tokens": tokens, "finish": finish}]}


def trial(before, after, clusters=None):
    pairs = [
        (sample(n, **old), sample(n, **new))
        for n, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    return Trial(pairs=pairs, confidence=0.95, clusters=clusters)


def seen(habit, text, finish="stop"):
    return HABITS[habit].seen({"text": text, "finish": finish})


@pytest.mark.parametrize(
    ("habit", "text", "share"),
    [
        ("empty", " \n", 1.0),
        ("empty", "a", 0.0),
        ("repetition", "a b c a b c a b c", 4 / 7),
        ("repetition", "a b c d e f", 0.0),
        ("repetition", "a b", 0.0),
        ("refusal", "I'm sorry, but I can't help with that.", 1.0),
        ("refusal", "I\u2019m sorry, I can\u2019t.", 1.0),
        ("refusal", "Unfortunately, I cannot provide medical advice.", 1.0),
        ("refusal", "As an AI language model, I have no opinions.", 1.0),
        ("refusal", "I can help with that: the answer is 4.", 0.0),
        ("refusal", "x" * 300 + " I'm sorry, I can't help.", 0.0),
    ],
)
def test_a_habit_is_seen_in_one_answer(habit, text, share):
    assert seen(habit, text) == pytest.approx(share)


def test_an_answer_that_ended_by_length_was_cut_off():
    assert seen("cut_off", "a", "length") == 1.0
    assert seen("cut_off", "a", "stop") == 0.0


def test_a_rise_is_judged_by_its_margin():
    fine, silent = [{}] * 100, [{"text": ""}] * 30 + [{}] * 70
    assert trial(fine, fine).verdict("empty", 0.1, gate="prompts").outcome is Outcome.PASSED
    risen = trial(fine, silent).verdict("empty", 0.1, gate="prompts")
    assert (risen.gate, risen.outcome) == ("prompts.empty", Outcome.FAILED)
    assert risen.worse_by == pytest.approx(0.3)
    assert trial(silent, fine).verdict("empty", 0.1, gate="prompts").outcome is Outcome.PASSED


def test_ten_answers_prove_no_habit():
    few = trial([{}] * 10, [{}] * 10)
    for name in (*HABITS, "length"):
        assert few.verdict(name, 0.05, gate="prompts").outcome is Outcome.INCONCLUSIVE


def test_a_baseline_that_has_the_habit_already_is_no_instrument():
    refusing = [{"text": "I'm sorry, I can't."}] * 50
    with pytest.raises(EvidenceError, match="100% of the baseline's answers show refusal"):
        trial(refusing, refusing).verdict("refusal", 0.1, gate="prompts")


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [
        (100, Outcome.PASSED),
        (102, Outcome.PASSED),
        (140, Outcome.FAILED),
        (70, Outcome.FAILED),
        (110, Outcome.INCONCLUSIVE),
        (90, Outcome.INCONCLUSIVE),
    ],
)
def test_longer_and_shorter_answers_are_both_harm(tokens, outcome):
    found = trial([{"tokens": 100}] * 200, [{"tokens": tokens}] * 200)
    verdict = found.verdict("length", 0.1, gate="prompts")
    assert verdict.outcome is outcome
    assert verdict.worse_by == pytest.approx(abs(tokens - 100) / 100)
    assert 0 <= verdict.low <= verdict.high


def test_a_baseline_without_tokens_has_no_length():
    with pytest.raises(EvidenceError, match="have no tokens"):
        trial([{"tokens": 0}] * 5, [{"tokens": 3}] * 5).verdict("length", 0.1, gate="prompts")


@pytest.mark.parametrize("ratio", [1.1, 0.9])
def test_a_length_at_the_margin_passes_rarely(ratio):
    dice, trials, passed = random.Random(f"{ratio}"), 400, 0
    for _ in range(trials):
        pairs = []
        for number in range(60):
            base = dice.lognormvariate(4, 0.6)
            old, new = (base * scale * dice.lognormvariate(-0.02, 0.2) for scale in (1, ratio))
            pairs.append((sample(number, tokens=old), sample(number, tokens=new)))
        found = Trial(pairs=pairs, confidence=0.95, clusters=None)
        passed += found.verdict("length", 0.1, gate="prompts").outcome is Outcome.PASSED
    assert passed / trials <= 0.065 + 0.025  # two standard errors of the simulation


def test_the_mix_of_ends_adds_up():
    samples = [sample(1), sample(2, finish="length"), sample(3, finish=""), sample(4)]
    assert ends(samples) == {"length": 0.25, "stop": 0.5, "unknown": 0.25}
