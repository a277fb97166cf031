"""Power is exact: as the whole sum over all outcomes, as scipy's noncentral t, as its own test."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from builders.gate.statistics import power
from builders.gate.statistics.intervals import normal_quantile, tango_score


def whole_sum(units, flips, margin, harm):
    """Every table of so many items, one by one."""
    worse, better = (flips + harm) / 2, (flips - harm) / 2
    quantile, total = normal_quantile(0.95), 0.0
    for b, c in itertools.product(range(units + 1), repeat=2):
        if b + c <= units and tango_score(b, c, units, margin) < -quantile:
            total += stats.multinomial.pmf([b, c, units - b - c], units, [worse, better, 1 - flips])
    return total


@pytest.mark.parametrize(
    ("units", "flips", "margin", "harm"),
    [(20, 0.3, 0.2, 0.0), (40, 0.1, 0.1, 0.05), (60, 0.05, 0.05, 0.05), (30, 0.5, 0.1, -0.2)],
)
def test_it_is_the_sum_over_every_table_of_right_and_wrong(units, flips, margin, harm):
    found = power.binary(units, flips, margin, 0.95, harm=harm)
    assert found == pytest.approx(whole_sum(units, flips, margin, harm), abs=1e-10)


def test_published_sizes_are_found_again():
    # Connor-style tables for a one-sided 5 % test, margin 1 point; exact by enumeration.
    for flips, units in ((0.005, 515), (0.01, 806), (0.02, 1357), (0.05, 3170)):
        assert power.binary(units, flips, 0.01, 0.95) == pytest.approx(0.80, abs=0.03)
    assert power.binary(14042, 0.06, 0.01, 0.95, harm=0.01) == pytest.approx(0.05, abs=0.001)


@given(st.integers(2, 400), st.floats(0.001, 0.3), st.floats(0.001, 0.3), st.floats(-0.1, 0.1))
@settings(max_examples=80, deadline=None)
def test_a_mean_has_the_power_of_the_noncentral_t(units, spread, allowed, harm):
    distance = (allowed - harm) * math.sqrt(units) / spread
    if abs(distance) > 30:
        return
    expected = stats.nct.cdf(-stats.t.ppf(0.95, units - 1), units - 1, -distance)
    if math.isnan(expected):
        return
    assert power.means(units, spread, allowed, 0.95, harm=harm) == pytest.approx(expected, abs=2e-4)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.001, 0.999))
@settings(deadline=None)
def test_tails_are_those_of_the_binomial_distribution(most, trials, chance):
    expected = stats.binom.cdf(most, trials, chance)
    assert power.below(most, trials, chance) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("units", [1, 0])
def test_one_unit_has_no_power(units):
    assert power.means(units, 0.1, 0.5, 0.95) == 0.0


def test_without_flips_or_spread_only_the_bound_decides():
    assert power.binary(10, 0.0, 0.01, 0.95) == 0.0
    assert power.binary(300, 0.0, 0.01, 0.95) == 1.0
    assert power.means(2, 0.0, 0.01, 0.95) == 1.0
    assert power.means(2, 0.0, 0.01, 0.95, harm=0.02) == 0.0


def items(units, margin=0.01, flips=0.05):
    return power.of_items(
        "accuracy", units, flips=flips, margin=margin, confidence=0.95, unit="items"
    )


def test_ten_items_at_one_percent_are_hopeless_and_say_how_many_would_do():
    ten = items(10)
    assert ten.hopeless
    assert ten.best == pytest.approx(0.213, abs=0.001)
    (refusal,) = power.Suite(gates=(ten, items(3200))).refusals()
    assert "accuracy can only end inconclusive: with 10 items" in refusal.reason
    assert refusal.hint.startswith("give it 4,")


def test_enough_is_enough_and_so_are_somewhat_more():
    for flips, margin in ((0.05, 0.05), (0.02, 0.01), (0.5, 0.3)):
        enough = items(10, margin=margin, flips=flips).enough
        for more in (1.0, 1.01, 1.03, 1.05):
            assert power.binary(int(enough * more), flips, margin, 0.95) >= power.GOAL - 0.01


def test_a_single_pair_is_hopeless_and_an_impossible_margin_has_no_number():
    one = power.of_means("latency", 1, spread=0.1, margin=0.1, confidence=0.95, unit="pairs")
    assert one.hopeless
    assert items(100, margin=0.0).enough is None
    (refusal,) = power.Suite(gates=(items(100, margin=0.0),)).refusals()
    assert refusal.hint == "widen its margin"


def test_gates_that_must_all_pass_multiply_and_an_unknown_one_is_not_guessed():
    suite = power.Suite(gates=(items(3170), items(3170)))
    assert suite.joint == pytest.approx(items(3170).power ** 2)
    unknown = power.Suite(gates=(items(3170), items(None)))
    assert unknown.joint is None
    assert unknown.refusals() == ()
    assert unknown.as_json()["gates"][1]["power"] is None
