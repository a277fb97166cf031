"""Curves are thinned without moving a quantile; axes are round and survive odd samples."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.report.ecdf import QUANTILES, Ecdf, axis, path

samples = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=2000)


def drawn_quantile(points, share):
    return next(value for value, reached in points if reached >= share - 1e-12)


def test_few_samples_are_drawn_whole():
    assert Ecdf.of([3, 1, 2]).points() == ((1, 1 / 3), (2, 2 / 3), (3, 1))


@pytest.mark.parametrize("count", [499, 500, 501, 5_000, 100_000])
def test_thinning_keeps_five_hundred_points_and_every_shown_quantile(count):
    chance = random.Random(count)
    curve = Ecdf.of([chance.lognormvariate(3, 1) for _ in range(count)])
    points = curve.points()
    assert len(points) <= 500
    assert (points[0][0], points[-1]) == (curve.ordered[0], (curve.ordered[-1], 1))
    for share in QUANTILES:
        assert drawn_quantile(points, share) == curve.quantile(share)


def test_the_thinned_curve_stays_within_half_a_percent_of_the_whole():
    curve = Ecdf.of(random.Random(7).random() for _ in range(100_000))
    points = curve.points()
    assert max(after - before for (_, before), (_, after) in pairwise(points)) < 0.005


@given(samples)
def test_every_kept_point_lies_on_the_whole_curve(values):
    curve = Ecdf.of(values)
    for value, share in curve.points(most=60):
        assert curve.ordered[round(share * len(values)) - 1] == value


@given(samples, st.sampled_from(QUANTILES))
def test_a_quantile_is_the_smallest_sample_that_reaches_its_share(values, share):
    found = Ecdf.of(values).quantile(share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values)


def test_order_does_not_matter():
    values = [random.Random(1).random() for _ in range(1000)]
    assert Ecdf.of(values) == Ecdf.of(reversed(values))


def test_samples_that_are_not_finite_are_counted_and_left_out():
    curve = Ecdf.of([1.0, float("nan"), float("inf"), 2.0])
    assert (curve.ordered, curve.dropped) == ((1.0, 2.0), 2)


@pytest.mark.parametrize(
    ("share", "least"), [(0.9, 36), (0.95, 72), (0.99, 368), (0.1, 36), (0.01, 368)]
)
def test_extreme_percentiles_need_enough_samples(share, least):
    assert Ecdf(tuple(range(least))).supports(share)
    assert not Ecdf(tuple(range(least - 1))).supports(share)


def test_the_median_is_always_shown():
    assert Ecdf((1.0,)).supports(0.5)


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        ([5, 40, 97], 0, 100),
        ([52, 55, 58], 52, 58),
        ([5.0], 4.4, 5.6),
        ([0.0, 0.0], 0, 0.6),
        ([-3, 4], -4, 4),
    ],
)
def test_axes_are_round_and_start_at_zero_unless_far_from_it(values, first, last):
    found = axis([Ecdf.of(values)])
    assert (found.first, found.last) == (first, last)
    assert 3 <= len(found.ticks) <= 8


def test_one_slow_sample_in_a_thousand_does_not_squeeze_the_axis():
    assert axis([Ecdf.of([*range(1, 1000), 10_000_000])]).last == 1000


@given(samples)
def test_axes_hold_all_but_the_slowest_hundredth(values):
    found = axis([Ecdf.of(values)])
    assert found.first <= min(values)
    assert sum(value > found.last for value in values) <= 0.01 * len(values)


@given(samples)
def test_paths_climb_and_never_leave_their_square(values):
    curve = Ecdf.of(values)
    data = path(curve, axis([curve]), 1000)
    assert re.fullmatch(r"M[\d.]+ 1000(H[\d.]+V[\d.]+)+H1000", data)
    across = [float(x) for x in re.findall(r"H([\d.]+)", data)]
    heights = [float(y) for y in re.findall(r"V([\d.]+)", data)]
    assert across == sorted(across)
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= number <= 1000 for number in across + heights)
