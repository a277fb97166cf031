"""The bootstrap agrees with scipy's, and is refused where it would promise too much."""

import random

import pytest

from builders.errors import EvidenceError
from builders.gate.statistics import bootstrap

CONFIDENCE = 0.95


def skewed(count, seed=0):
    dice = random.Random(seed)
    return [dice.expovariate(5.0) - 0.1 for _ in range(count)]


def test_bounds_are_those_of_scipy():
    import numpy as np
    from scipy import stats

    values = skewed(80)
    ours = bootstrap.bounds(values, confidence=CONFIDENCE)
    theirs = stats.bootstrap(
        (np.array(values),), np.mean, confidence_level=0.9, method="BCa", n_resamples=9999, rng=1
    )
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.1 * (high - low) / 2)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.05)
    assert ours.high - ours.value > ours.value - ours.low  # it leans with the skew


def test_the_same_values_give_the_same_bounds():
    values = skewed(60)
    assert bootstrap.bounds(values, confidence=0.9) == bootstrap.bounds(values, confidence=0.9)


def test_clusters_are_drawn_whole():
    values = [value for value in skewed(60) for _ in range(4)]
    clusters = [place // 4 for place in range(len(values))]
    alone = bootstrap.bounds(values, confidence=CONFIDENCE)
    together = bootstrap.bounds(values, confidence=CONFIDENCE, clusters=clusters)
    assert together.error == pytest.approx(2 * alone.error, rel=0.1)
    assert together.value == pytest.approx(alone.value)


@pytest.mark.parametrize(
    "values", [[0.0] * 200, [0.1] * 200, skewed(49), [0.0] * 191 + [0.1 * n for n in range(9)]]
)
def test_too_little_to_resample_from_is_refused(values):
    assert not bootstrap.fits(values)
    with pytest.raises(EvidenceError, match="a bootstrap needs 50 units, 10 of them different"):
        bootstrap.bounds(values, confidence=CONFIDENCE)


def test_few_clusters_are_few_units():
    assert bootstrap.fits(skewed(100))
    assert not bootstrap.fits(skewed(100), clusters=[place // 10 for place in range(100)])


@pytest.mark.slow
def test_a_candidate_at_the_margin_passes_rarely_and_a_harmless_one_often():
    # More trials, and more worlds, in tests/bench/prompts.py.
    dice, margin, trials = random.Random(5), 0.05, 200
    passed = [0, 0]
    for _ in range(trials):
        noise = [dice.gauss(0, 0.1) for _ in range(100)]
        lost = [float(dice.random() < margin / 0.6) * dice.uniform(0.4, 0.8) for _ in noise]
        for place, harm in enumerate(([a + b for a, b in zip(noise, lost, strict=True)], noise)):
            found = bootstrap.bounds(harm, confidence=CONFIDENCE, resamples=499)
            passed[place] += found.high < margin
    assert passed[0] / trials <= 0.10  # nominal 0.05, three standard errors of the simulation
    assert passed[1] / trials >= 0.95
