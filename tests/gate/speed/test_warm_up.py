"""The beginning of a run is found where there is one, and where there is none no run is void."""

import random
from dataclasses import replace

import pytest

from builders.errors import EvidenceError
from builders.gate.speed import warm_up
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing
from builders.gate.speed.warm_up import early, steady, truncation


def series(dice, count, *, lean=0.0, begin=0.0, slow=0.5):
    """Noise around ten in which each value leans on the last; the beginning is slower."""
    value, found = 0.0, []
    for place in range(count):
        value = lean * value + dice.gauss(0, 1)
        extra = slow * 10 * (1 - place / (count * begin)) if place < count * begin else 0.0
        found.append(10 + value + extra)
    return found


def laid_over(dice, count, blocks=8, **keys):
    many = [series(dice, count, **keys) for _ in range(blocks)]
    return [sum(values) / blocks for values in zip(*many, strict=True)]


@pytest.mark.parametrize("lean", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("count", [400, 1000])
def test_a_steady_run_is_hardly_ever_void_and_loses_little(lean, count):
    dice = random.Random(f"{lean} {count}")
    cuts = [truncation(laid_over(dice, count, lean=lean)) for _ in range(200)]
    assert sum(cut is None for cut in cuts) <= 4
    assert sum(cut or 0 for cut in cuts) / len(cuts) / count < 0.05


def test_a_slow_beginning_is_cut_off():
    dice = random.Random(2)
    for _ in range(50):
        cut = truncation(laid_over(dice, 1000, begin=0.2))
        assert cut is not None
        assert 100 <= cut <= 350


def test_a_beginning_without_an_end_is_seen():
    dice = random.Random(3)
    cuts = [truncation(laid_over(dice, 1000, begin=0.8)) for _ in range(50)]
    assert sum(cut is None for cut in cuts) >= 48


def test_a_beginning_that_changes_next_to_nothing_is_none():
    exact = [1.001] * 300 + [1.0] * 700
    assert truncation(exact) == 0
    assert truncation([1.1] * 300 + [1.0] * 700) == 300


def test_a_short_run_is_not_looked_into():
    assert truncation([9.0] * 50 + [1.0] * 340) == 0


def block(side, gaps, *, tokens=10):
    """One request after another; request k has the gap ``gaps[k]`` between its tokens."""
    now, requests = 0.0, []
    for gap in gaps:
        arrivals = tuple((now + gap * place, 1) for place in range(tokens + 1))
        requests.append(Timing(intended=now, sent=now, arrivals=arrivals))
        now = arrivals[-1][0]
    return Block(pair=1, side=side, requests=tuple(requests))


def test_the_same_requests_are_cut_off_both_sides():
    blocks = [
        block(BASELINE, [0.02] * 10 + [0.01] * 50),
        block(CANDIDATE, [0.02] * 5 + [0.01] * 55),
    ]
    count = early(blocks)
    assert 9 <= count <= 11
    assert [len(one.requests) for one in steady(blocks)] == [60 - count] * 2


def test_a_run_that_never_settles_is_void():
    falling = [0.05 - 0.0007 * place for place in range(60)]
    with pytest.raises(EvidenceError, match="not steady for the second half"):
        early([block(BASELINE, falling), block(CANDIDATE, falling)])


def test_a_server_that_runs_empty_at_the_end_is_no_beginning():
    one = block(BASELINE, [0.01] * 60)
    *others, last = one.requests
    late = replace(last, arrivals=tuple((time + 30, 1) for time, _ in last.arrivals))
    assert early([replace(one, requests=(*others, late))]) == 0


def test_an_answer_in_one_piece_has_no_flow():
    timing = Timing(intended=0.0, sent=0.0, arrivals=((1.0, 5),))
    assert early([Block(pair=1, side=BASELINE, requests=(timing,) * 9)]) == 0
    assert warm_up.LEAST_BATCHES > 0
