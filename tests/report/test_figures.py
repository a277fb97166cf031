"""Tiles, curves, bars and timings say what was measured and stay silent on what was not."""

from dataclasses import replace

import pytest

from builders.report import Latency, Samples, Sizes, Stage, figures

NAN = float("nan")
NOTHING = Samples()


def labels(report):
    return [tile.label for tile in figures.tiles(report)]


def test_tiles_name_what_was_measured(report):
    measured = ["Gates passed", "Weights", "TTFT, median", "ITL, median", "Rate, median"]
    assert labels(report) == measured
    assert labels(replace(report, sizes=None, latency=None)) == ["Gates passed"]


def test_missing_gates_count_among_those_to_pass(report):
    tile = figures.tiles(replace(report, required=("prompts",)))[0]
    assert tile.value == "3 of 4"


def test_a_side_without_samples_has_no_tile_but_a_remark(report):
    lone = Latency(baseline=Samples(ttft_ms=(5.0, 6.0)), candidate=NOTHING)
    assert labels(replace(report, sizes=None, latency=lone)) == ["Gates passed"]
    (figure,) = figures.curves(lone)
    assert figure.remarks == ("No samples of the candidate.",)
    assert [side.path != "" for side in figure.sides] == [True, False]


def test_no_samples_at_all_give_no_figure():
    assert figures.curves(Latency(baseline=NOTHING, candidate=NOTHING)) == ()
    assert figures.curves(None) == ()


def test_rates_show_their_low_percentiles_and_latencies_their_high_ones(report):
    columns = {figure.name: figure.columns for figure in figures.curves(report.latency)}
    assert columns["ttft-ms"] == ("median", "p90", "p95", "p99")
    assert columns["tokens-per-second"] == ("median", "p10", "p5", "p1")


def test_percentiles_that_the_samples_do_not_support_are_dashes():
    few = Samples(ttft_ms=tuple(float(n) for n in range(1, 51)))
    (figure,) = figures.curves(Latency(baseline=few, candidate=few))
    assert figure.sides[0].quantiles == ("25.0", "45.0", "—", "—")


def test_samples_off_the_axis_and_not_finite_are_mentioned():
    slow = Samples(itl_ms=(*(float(n) for n in range(1, 1000)), 50_000.0, NAN))
    (figure,) = figures.curves(Latency(baseline=slow, candidate=slow))
    said = " ".join(figure.remarks).replace("\xa0", " ")
    assert "Not finite, left out: 1 of the baseline." in said
    assert "Beyond the axis: 1 of the candidate, up to 50,000 ms." in said


@pytest.mark.parametrize(
    ("sizes", "shares"), [((100, 50), [100, 50]), ((50, 100), [50, 100]), ((0, 0), [0, 0])]
)
def test_bars_share_one_scale(sizes, shares):
    bars = figures.bars(Sizes(baseline_bytes=sizes[0], candidate_bytes=sizes[1]))
    assert [bar.share for bar in bars] == shares


def test_timings_are_relative_to_the_longest_stage():
    stages = [
        Stage(name="a", key="k" * 64, cached=c, seconds=s) for c, s in ((False, 4), (True, 1))
    ]
    first, second = figures.timings(tuple(stages))
    assert (first.share, second.share) == (100, 25)
    assert (first.done, second.done) == ("ran", "reused")
    assert len(first.short_key) == 12


def test_a_stage_whose_time_is_unknown_does_not_break_the_bars():
    stages = [Stage(name="a", key="k", cached=False, seconds=s) for s in (NAN, 2.0)]
    first, second = figures.timings(tuple(stages))
    assert (first.share, first.seconds, second.share) == (0, "not measured", 100)
