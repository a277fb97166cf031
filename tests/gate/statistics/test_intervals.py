"""The intervals are right: against other libraries, and as statistics, by simulation.

At the margin a gate at 95% may pass 5% of bad candidates; over 2,000 trials none may pass 6.5%.
"""

import math

import numpy as np
import pytest
from scipy import stats

from builders.errors import EvidenceError
from builders.gate.statistics.intervals import (
    Bounds,
    binomial_tail,
    cluster_error,
    iid_error,
    mean_bounds,
    newey_west_error,
    normal_quantile,
    settle,
    t_quantile,
    tango_bounds,
    tango_limits,
    tango_score,
    units_needed,
)

TRIALS = 2000


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 29, 59, 1000, 14041])
def test_quantiles_of_students_t_equal_scipys(freedom):
    for probability in (0.6, 0.9, 0.95, 0.99, 0.9999):
        assert t_quantile(probability, freedom) == pytest.approx(
            stats.t.ppf(probability, freedom), rel=1e-9
        )


@pytest.mark.parametrize(("trials", "chance"), [(10, 0.5), (400, 0.25), (14042, 0.25)])
def test_binomial_tails_equal_scipys(trials, chance):
    for successes in range(0, trials + 1, max(1, trials // 20)):
        truth = stats.binom.sf(successes - 1, trials, chance)
        assert binomial_tail(successes, trials, chance) == pytest.approx(
            truth, rel=1e-8, abs=1e-290
        )


@pytest.mark.parametrize("count", [10, 60, 280])
def test_errors_equal_those_of_statsmodels(count):
    import statsmodels.api as sm

    values = np.random.default_rng(0).normal(size=count).cumsum() / 10
    groups = np.arange(count) // 7
    fit = sm.OLS(values, np.ones(count))
    lags = math.floor(4 * (count / 100) ** (2 / 9))
    hac = fit.fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True})
    clustered = fit.fit(cov_type="cluster", cov_kwds={"groups": groups})
    # statsmodels' cluster correction has one factor (n - 1) / (n - k) more, which is 1 for a mean.
    assert newey_west_error(values.tolist()) == pytest.approx(hac.bse[0], rel=1e-9)
    assert cluster_error(values.tolist(), groups.tolist()) == pytest.approx(
        clustered.bse[0], rel=1e-9
    )
    assert iid_error(values.tolist()) == pytest.approx(stats.sem(values), rel=1e-12)


def test_at_no_margin_tangos_score_is_mcnemars():
    from statsmodels.stats.contingency_tables import mcnemar

    for worse, better in ((18, 8), (7, 2), (0, 5)):
        theirs = mcnemar([[300, worse], [better, 80]], exact=False, correction=False)
        assert tango_score(worse, better, 400, 0.0) ** 2 == pytest.approx(theirs.statistic)


@pytest.mark.parametrize(("worse", "better", "total"), [(5, 2, 200), (30, 30, 14042), (1, 0, 10)])
def test_tangos_limits_are_where_a_numeric_fit_puts_them(worse, better, total):
    """The closed form of the score against likelihood maximized under the hypothesis."""
    from scipy.optimize import minimize_scalar

    same = total - worse - better

    def score(difference):
        def minus_log_likelihood(rate):
            rest = 1 - 2 * rate - difference
            return -(
                worse * math.log(rate + difference)
                + better * math.log(rate)
                + same * math.log(rest)
            )

        low, high = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
        rate = minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
        ).x
        variance = total * (2 * rate + difference * (1 - difference))
        return (worse - better - total * difference) / math.sqrt(variance)

    low, high = tango_limits(worse, better, total, 1.6448536269514722)
    assert score(low) == pytest.approx(1.645, abs=1e-3)
    assert score(high) == pytest.approx(-1.645, abs=1e-3)


def test_ten_identical_pairs_prove_nothing():
    bounds = tango_bounds([0] * 10, confidence=0.95)
    assert (bounds.low, bounds.high) == pytest.approx((-0.213, 0.213), abs=1e-3)


def test_hundreds_of_flips_that_cancel_out_are_certified_on_all_of_mmlu():
    """As many won as lost, 350 of 14,042 each, is well within one point."""
    bounds = tango_bounds([1] * 350 + [-1] * 350 + [0] * (14042 - 700), confidence=0.95)
    assert bounds.high == pytest.approx(0.0031, abs=1e-4)


def test_bounds_mirror_when_the_models_change_places():
    differences = [1] * 18 + [-1] * 8 + [0] * 374
    there = tango_bounds(differences, confidence=0.95)
    back = tango_bounds([-one for one in differences], confidence=0.95)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_bounds_do_not_depend_on_the_order_of_independent_units():
    values = np.random.default_rng(0).normal(size=50).tolist()
    assert mean_bounds(values, confidence=0.95) == mean_bounds(values[::-1], confidence=0.95)


def test_a_higher_confidence_reaches_further():
    values = np.random.default_rng(0).normal(size=30).tolist()
    narrow, wide = (mean_bounds(values, confidence=level) for level in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_too_few_units_cannot_be_bounded():
    with pytest.raises(EvidenceError, match="no spread"):
        mean_bounds([1.0], confidence=0.95)
    with pytest.raises(EvidenceError, match="no units"):
        tango_bounds([], confidence=0.95)


def test_a_single_cluster_tells_nothing_and_is_passed_over():
    values = [0.1, 0.2, 0.4]
    assert mean_bounds(values, confidence=0.95, clusters=["a"] * 3) == mean_bounds(
        values, confidence=0.95
    )


def _passes(draw, margin, bound):
    dice = np.random.default_rng(7)
    return sum(bound(draw(dice)).high < margin for _ in range(TRIALS)) / TRIALS


@pytest.mark.parametrize(
    ("count", "flips", "margin"), [(50, 0.10, 0.05), (200, 0.06, 0.02), (1000, 0.06, 0.01)]
)
def test_at_the_margin_tangos_test_keeps_its_error(count, flips, margin):
    rates = [(flips + margin) / 2, (flips - margin) / 2]

    def draw(dice):
        worse, better, _ = dice.multinomial(count, [*rates, 1 - sum(rates)])
        return [1] * worse + [-1] * better + [0] * (count - worse - better)

    assert _passes(draw, margin, lambda d: tango_bounds(d, confidence=0.95)) <= 0.065


def test_at_the_margin_clustered_answers_keep_the_error_only_when_clusters_are_named():
    clusters = [place // 10 for place in range(400)]

    def draw(dice):
        """Whole subjects turn worse or better together: a tenth of them, by two in a hundred."""
        turn = dice.choice([1, -1, 0], size=40, p=[0.06, 0.04, 0.9]).repeat(10)
        return (turn * (dice.random(400) < 0.9)).tolist()

    margin = 0.02 * 0.9
    blind = _passes(draw, margin, lambda d: tango_bounds(d, confidence=0.95))
    seeing = _passes(draw, margin, lambda d: tango_bounds(d, confidence=0.95, clusters=clusters))
    assert seeing <= 0.065
    assert blind > 0.10


@pytest.mark.parametrize(("count", "likeness"), [(30, 0.0), (60, 0.3), (280, 0.45)])
def test_at_the_margin_a_series_of_windows_keeps_its_error(count, likeness):
    def draw(dice):
        shocks = dice.normal(size=count + 20)
        for place in range(1, count + 20):
            shocks[place] = likeness * shocks[place - 1] + shocks[place]
        return (0.01 + 0.03 * shocks[20:]).tolist()

    passed = _passes(draw, 0.01, lambda d: mean_bounds(d, confidence=0.95, series=True))
    assert passed <= 0.065


def test_at_the_margin_windows_of_few_documents_keep_their_error():
    documents = [place // 7 for place in range(140)]

    def draw(dice):
        return (
            0.01 + dice.normal(size=20).repeat(7) * 0.02 + dice.normal(size=140) * 0.02
        ).tolist()

    passed = _passes(
        draw, 0.01, lambda d: mean_bounds(d, confidence=0.95, clusters=documents, series=True)
    )
    assert passed <= 0.065


def test_a_harmless_candidate_passes_nearly_always():
    def draw(dice):
        return (0.013 * dice.normal(size=60)).tolist()

    power = _passes(
        draw,
        0.01,
        lambda d: mean_bounds(
            d, confidence=0.95, clusters=[place // 3 for place in range(60)], series=True
        ),
    )
    assert power > 0.99


def test_the_units_needed_are_enough_and_not_many_too_many():
    quantile = normal_quantile(0.95)

    def high(more):
        return tango_limits(5 * more, 2 * more, 200 * more, quantile)[1]

    needed = units_needed(200, 0.02, high)
    assert high(needed / 200) < 0.02 <= high((needed - 1) / 200)


def test_advice_is_given_for_inconclusive_bounds_only():
    def bounds(low, value, high):
        return Bounds(value=value, low=low, high=high, error=0.01, units=100)

    def shrink(more):
        return 0.005 + 0.02 / math.sqrt(more)

    assert settle(bounds(-0.01, 0.0, 0.005), 0.01, shrink) == ""
    assert settle(bounds(0.02, 0.03, 0.04), 0.01, shrink) == ""
    assert "not within the margin" in settle(bounds(0.005, 0.015, 0.025), 0.01, shrink)
    assert "1,601 units" in settle(bounds(-0.015, 0.005, 0.025), 0.01, shrink)
