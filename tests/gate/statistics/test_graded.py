"""Bounds of paired right-or-wrong differences keep their promise at the margin; t does not."""

import random

import pytest

from builders.errors import EvidenceError
from builders.gate.statistics import graded, intervals

CONFIDENCE = 0.95


def test_whole_flips_are_tangos_test_to_the_letter():
    for harm in ([1.0, -1.0, 0.0, 0.0, 1.0], [0.0] * 10, [1.0] * 3 + [0.0] * 97):
        ours = graded.bounds(harm, confidence=CONFIDENCE)
        theirs = intervals.tango_bounds([int(value) for value in harm], confidence=CONFIDENCE)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert ours.value == pytest.approx(theirs.value)


def test_ten_identical_prompts_prove_next_to_nothing():
    assert graded.bounds([0.0] * 10, confidence=CONFIDENCE).high == pytest.approx(0.213, abs=1e-3)


def test_swapping_the_models_mirrors_the_bounds():
    harm = [0.25, 0.0, -0.5, 1.0, 0.0, 0.75, 0.0, 0.0]
    there = graded.bounds(harm, confidence=CONFIDENCE)
    back = graded.bounds([-value for value in harm], confidence=CONFIDENCE)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9)


def test_order_does_not_matter():
    harm = [0.25, 0.0, -0.5, 1.0, 0.0, 0.75, 0.1, 0.3]
    assert graded.bounds(harm, confidence=CONFIDENCE) == graded.bounds(
        harm[::-1], confidence=CONFIDENCE
    )


def test_prompts_that_move_together_widen_the_bounds():
    harm = ([1.0] * 5 + [0.0] * 5) * 4
    groups = [place // 5 for place in range(len(harm))]
    alone = graded.bounds(harm, confidence=CONFIDENCE)
    together = graded.bounds(harm, confidence=CONFIDENCE, clusters=groups)
    assert together.high > alone.high
    assert together.error > alone.error


def test_one_unit_has_no_spread():
    with pytest.raises(EvidenceError, match="no spread"):
        graded.bounds([0.0], confidence=CONFIDENCE)


def test_advice_says_how_many_prompts_would_settle_it():
    harm = [1.0, -1.0] + [0.0] * 48
    text = graded.advice(harm, margin=0.05, confidence=CONFIDENCE)
    assert "units would settle it" in text
    needed = int(text.split("about ")[1].split(" units")[0])
    times = needed / 50
    flips = graded.Flips.of(harm, confidence=CONFIDENCE)
    assert flips.limits(times)[1] < 0.05 <= flips.limits(times * 0.9)[1]


def whole(dice, margin, k):
    """Answers once: a share of the prompts goes wrong, some flip either way."""
    chance = dice.random()
    return float(chance < margin + 0.03) - float(chance > 0.97)


def halved(dice, margin, k):
    """Most prompts are settled; a few go from always to half the time."""
    hit = dice.random() < 2 * margin
    return 1 - sum(dice.random() < 0.5 for _ in range(k)) / k if hit else 0.0


def lost(dice, margin, k):
    """A few prompts are lost outright amid small changes both ways."""
    before, after = (sum(dice.random() < 0.97 for _ in range(k)) / k for _ in range(2))
    return 1.0 if dice.random() < margin else before - after


def dense(dice, margin, k):
    """Every prompt is answered by chance."""
    chance = margin + dice.betavariate(0.5, 0.5) * (1 - margin)
    right = [sum(dice.random() < p for _ in range(k)) / k for p in (chance, chance - margin)]
    return right[0] - right[1]


@pytest.mark.parametrize("world", [whole, halved, lost, dense])
@pytest.mark.parametrize(("units", "k", "margin"), [(40, 4, 0.1), (100, 4, 0.05), (200, 8, 0.02)])
def test_a_candidate_at_the_margin_passes_rarely(world, units, k, margin):
    dice = random.Random(f"{world.__name__} {units}")
    trials = 500
    passed = sum(
        graded.bounds([world(dice, margin, k) for _ in range(units)], confidence=CONFIDENCE).high
        < margin
        for _ in range(trials)
    )
    assert passed / trials <= 0.065 + 0.02  # two standard errors of the simulation


def test_students_t_would_let_three_times_as_many_pass():
    dice = random.Random(3)
    passed = 0
    for _ in range(400):
        harm = [halved(dice, 0.02, 4) for _ in range(100)]
        passed += intervals.mean_bounds(harm, confidence=CONFIDENCE).high < 0.02
    assert passed / 400 > 0.1


def test_a_harmless_candidate_passes_with_enough_prompts():
    dice = random.Random(4)
    passed = 0
    for _ in range(200):
        harm = [float(dice.random() < 0.01) - float(dice.random() < 0.01) for _ in range(400)]
        passed += graded.bounds(harm, confidence=CONFIDENCE).high < 0.03
    assert passed / 200 > 0.9
