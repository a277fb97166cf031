"""Every verdict finds its place on the common axis of margins, or says why it has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.report import forest
from builders.verdict import Outcome, Verdict

NAN, INF = float("nan"), float("inf")


def verdict_of(worse_by, low, high, margin):
    return Verdict(gate="g", worse_by=worse_by, low=low, high=high, margin=margin, units=1)


def test_baseline_and_margin_have_fixed_places():
    assert (forest.position(0), forest.position(1)) == (40, 60)


def test_different_units_share_one_axis(verdict):
    relative = forest.mark(verdict(worse_by=0.005, low=0, high=0.01, margin=0.01))
    points = forest.mark(verdict(worse_by=2.5, low=0, high=5, margin=5, unit="ms"))
    assert relative == points
    assert (relative.start, relative.point, relative.end) == (40, 50, 60)


def test_what_lies_far_off_becomes_an_arrow_and_a_number(verdict):
    mark = forest.mark(verdict(worse_by=0.26, low=0.24, high=0.28, margin=0.01))
    assert mark.arrow_right
    assert not mark.arrow_left
    assert (mark.low, mark.point, mark.high) == (None, None, None)
    assert (mark.note, mark.note_right) == ("26 × margin", True)


def test_what_is_far_better_points_to_the_left(verdict):
    mark = forest.mark(verdict(worse_by=-0.5, low=-0.6, high=0.005))
    assert mark.arrow_left
    assert not mark.note_right
    assert mark.end == 50


def test_infinite_bounds_are_arrows(verdict):
    mark = forest.mark(verdict(worse_by=0.0, low=-INF, high=INF))
    assert (mark.arrow_left, mark.arrow_right, mark.point) == (True, True, 40)


@pytest.mark.parametrize("bounds", [(NAN, NAN), (NAN, 0.1), (0.1, NAN)])
def test_a_bound_that_is_not_a_number_is_not_drawn(verdict, bounds):
    mark = forest.mark(verdict(low=bounds[0], high=bounds[1]))
    assert (mark.drawn, mark.note) == (False, "not measured")


def test_an_estimate_that_is_not_a_number_leaves_its_bounds(verdict):
    mark = forest.mark(verdict(worse_by=NAN, low=0, high=0.01))
    assert (mark.drawn, mark.point, mark.end, mark.note) == (True, None, 60, "")


@pytest.mark.parametrize("margin", [0.0, -0.1, NAN, INF])
def test_without_a_usable_margin_nothing_is_drawn(verdict, margin):
    mark = forest.mark(verdict(margin=margin))
    assert (mark.drawn, mark.note) == (False, "no margin to draw against")


any_float = st.floats(allow_nan=True, allow_infinity=True)


@given(any_float, any_float, any_float, st.floats(min_value=1e-300, max_value=1e300))
def test_every_drawn_position_lies_on_the_axis(worse_by, low, high, margin):
    mark = forest.mark(verdict_of(worse_by, low, high, margin))
    for place in (mark.low, mark.high, mark.point, mark.start, mark.end):
        assert place is None or 0 <= place <= 100


@given(st.floats(-2, 3), st.floats(-2, 3))
def test_a_passed_gate_ends_left_of_its_margin(low, high):
    judged = verdict_of((low + high) / 2, min(low, high), max(low, high), 1.0)
    if judged.outcome is Outcome.PASSED:
        assert forest.mark(judged).end <= forest.position(1)
