"""One rule turns an interval into an answer, and doubt never opens a gate."""

import math
from dataclasses import replace

import pytest

from builders.verdict import Outcome, Verdict, worst


def verdict(low, high, margin=0.01):
    return Verdict(gate="x", worse_by=0.0, low=low, high=high, margin=margin, units=10)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.01, 0.009, Outcome.PASSED),
        (-0.01, 0.01, Outcome.INCONCLUSIVE),  # at the margin is not below it
        (0.005, 0.02, Outcome.INCONCLUSIVE),
        (0.011, 0.02, Outcome.FAILED),
        (math.nan, math.nan, Outcome.INCONCLUSIVE),
        (math.nan, 0.0, Outcome.INCONCLUSIVE),
        (0.02, math.nan, Outcome.INCONCLUSIVE),
        (0.005, -0.005, Outcome.INCONCLUSIVE),
        (-math.inf, math.inf, Outcome.INCONCLUSIVE),
    ],
)
def test_only_an_upper_bound_below_the_margin_passes(low, high, outcome):
    assert verdict(low, high).outcome is outcome


def test_the_worst_outcome_wins_and_nothing_is_inconclusive():
    assert worst([Outcome.PASSED, Outcome.INCONCLUSIVE, Outcome.FAILED]) is Outcome.FAILED
    assert worst([Outcome.PASSED, Outcome.INCONCLUSIVE]) is Outcome.INCONCLUSIVE
    assert worst([Outcome.PASSED]) is Outcome.PASSED
    assert worst([]) is Outcome.INCONCLUSIVE


def test_scripts_get_null_where_there_is_no_number():
    written = verdict(-math.inf, math.nan).as_json()
    assert (written["low"], written["high"]) == (None, None)
    assert written["outcome"] == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "band", "label"),
    [
        (-0.001, 0.001, 0.002, "indistinguishable"),
        (0.0, 0.0, 0.0, "indistinguishable"),
        (-0.001, 0.003, 0.002, "within-margin"),
        (-0.003, 0.001, 0.002, "within-margin"),
        (-0.001, 0.001, math.nan, "within-margin"),
        (0.0, 0.0, None, "within-margin"),
        (0.011, 0.02, 1.0, "worse"),
        (0.0, 0.02, 1.0, "inconclusive"),
    ],
)
def test_only_what_lies_inside_the_baselines_own_band_is_indistinguishable(low, high, band, label):
    found = replace(verdict(low, high), band=band)
    assert found.label == label
    assert found.as_json()["label"] == label
