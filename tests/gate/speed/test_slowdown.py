"""The latency interval keeps its promise: on noisy pairs, on a simulated queue, at the margin."""

import heapq
import math
import random

import pytest

from builders.errors import EvidenceError
from builders.gate.speed import slowdown
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing, quantile
from builders.gate.statistics.intervals import mean_bounds
from builders.verdict import Outcome

CONFIDENCE = 0.95


def block(pair, side, *, ttft, itl=0.01, requests=5, tokens=4):
    arrivals = tuple((ttft + itl * place, 1) for place in range(tokens))
    timing = Timing(intended=0.0, sent=0.0, arrivals=arrivals)
    return Block(pair=pair, side=side, requests=(timing,) * requests)


def blocks(ratios, *, base=0.1):
    return [
        block(pair, side, ttft=ttft, itl=ttft / 10)
        for pair, ratio in enumerate(ratios, start=1)
        for side, ttft in ((BASELINE, base), (CANDIDATE, base * ratio))
    ]


def judge(ratios, *, margin=0.05, name="ttft"):
    return slowdown.verdict(blocks(ratios), name, margin=margin, confidence=CONFIDENCE)


def test_a_slower_candidate_fails_a_faster_one_passes_a_noisy_one_is_inconclusive():
    assert judge([1.20, 1.21, 1.19, 1.22]).outcome is Outcome.FAILED
    assert judge([0.80, 0.81, 0.79, 0.82]).outcome is Outcome.PASSED
    assert judge([1.3, 0.8, 1.2, 0.75]).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("name", ["ttft", "itl", "tps"])
def test_every_measure_is_a_slowdown_that_is_worse_above_zero(name):
    found = judge([1.10, 1.11, 1.09, 1.10], name=name)
    assert found.worse_by == pytest.approx(0.1, abs=1e-3)
    assert found.low < found.worse_by < found.high
    assert found.gate == f"latency.{ {'ttft': 'ttft_p50', 'itl': 'itl_p50', 'tps': 'tps'}[name] }"


def test_an_inconclusive_verdict_says_how_many_pairs_would_settle_it():
    assert "units would settle it" in judge([1.06, 0.95, 1.04, 0.97]).detail


def test_swapping_the_sides_gives_the_inverse_ratio():
    there = slowdown.log_ratios(blocks([1.1, 1.3]), "ttft")
    back = slowdown.log_ratios(
        [
            Block(
                pair=b.pair, side=CANDIDATE if b.side == BASELINE else BASELINE, requests=b.requests
            )
            for b in blocks([1.1, 1.3])
        ],
        "ttft",
    )
    assert back == pytest.approx([-ratio for ratio in there])


def test_the_order_of_blocks_does_not_matter():
    made = blocks([1.1, 1.3, 0.9])
    assert slowdown.log_ratios(made[::-1], "itl") == slowdown.log_ratios(made, "itl")


def test_tails_are_reported_only_where_enough_requests_bound_them():
    few = [block(1, side, ttft=0.1, requests=71) for side in (BASELINE, CANDIDATE)]
    many = [block(1, side, ttft=0.1, requests=368) for side in (BASELINE, CANDIDATE)]
    tails = [
        {name.removeprefix("baseline ") for name, _ in slowdown.numbers(made, "ttft")}
        for made in (few, many)
    ]
    assert "ttft_p90 [ms]" in tails[0]
    assert "ttft_p95 [ms]" not in tails[0]
    assert {"ttft_p90 [ms]", "ttft_p95 [ms]", "ttft_p99 [ms]"} <= tails[1]


def test_answers_in_one_piece_have_no_inter_token_latency():
    made = [block(1, side, ttft=0.1, tokens=1) for side in (BASELINE, CANDIDATE)]
    with pytest.raises(EvidenceError, match="itl_p50 cannot be seen"):
        slowdown.log_ratios(made, "itl")
    assert slowdown.unjudged(made, "itl", confidence=CONFIDENCE) == ()


def test_drift_is_seen_and_noise_is_not_called_drift():
    dice = random.Random(1)
    assert slowdown.drifts([0.02 * pair + dice.gauss(0, 0.01) for pair in range(8)])
    assert not slowdown.drifts([0.0] * 8)
    alarms = sum(slowdown.drifts([dice.gauss(0, 0.05) for _ in range(8)]) for _ in range(1000))
    assert alarms / 1000 < 0.02


def test_turns_in_abba_order_cancel_a_steady_drift_of_the_machine():
    def mean_ratio(order):
        times = {turn: 0.01 * place for place, turn in enumerate(order)}
        return sum(times[pair, CANDIDATE] - times[pair, BASELINE] for pair in pairs) / len(pairs)

    pairs = range(1, 9)
    abab = [(pair, side) for pair in pairs for side in (BASELINE, CANDIDATE)]
    abba = [
        (pair, side)
        for pair in pairs
        for side in ((BASELINE, CANDIDATE) if pair % 2 else (CANDIDATE, BASELINE))
    ]
    assert mean_ratio(abab) == pytest.approx(0.01)
    assert mean_ratio(abba) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("pairs", "noise"), [(4, 0.05), (8, 0.02), (8, 0.2), (16, 0.1)])
def test_a_candidate_at_the_margin_passes_one_time_in_twenty(pairs, noise):
    dice = random.Random(f"{pairs} {noise}")
    margin, trials = math.log1p(0.05), 1000
    passed = sum(
        slowdown.bounds(
            [margin + dice.gauss(0, noise) for _ in range(pairs)], confidence=CONFIDENCE
        ).high
        < margin
        for _ in range(trials)
    )
    assert 0.03 <= passed / trials <= 0.065


def queue(arrivals, work, slots=4):
    """Return the waiting and working time of each request, first come first served."""
    free, found = [0.0] * slots, []
    for arrival, seconds in zip(arrivals, work, strict=True):
        begin = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begin + seconds)
        found.append(begin + seconds - arrival)
    return found


def queued_log_ratio(dice, *, load, requests, run_noise=0.01):
    """One pair on a queue: the same arrivals and the same work for both, each run its own speed."""
    arrivals, now = [], 0.0
    work = [dice.lognormvariate(-0.125, 0.5) for _ in range(requests)]
    for _ in range(requests):
        now += dice.expovariate(4 * load)
        arrivals.append(now)
    medians = []
    for _ in range(2):
        speed = dice.lognormvariate(0, run_noise)
        # The server's own luck differs from run to run, even on one trace.
        own = [seconds * speed * dice.lognormvariate(-0.02, 0.2) for seconds in work]
        medians.append(quantile(queue(arrivals, own), 0.5))
    return math.log(medians[1] / medians[0])


@pytest.mark.parametrize("load", [0.5, 0.7, 0.85])
def test_the_interval_holds_the_truth_on_a_queue_of_equal_servers(load):
    dice = random.Random(f"queue {load}")
    trials, held = 150, 0
    for _ in range(trials):
        ratios = [queued_log_ratio(dice, load=load, requests=150) for _ in range(8)]
        found = mean_bounds(ratios, confidence=CONFIDENCE)
        held += found.low <= 0 <= found.high
    assert held / trials >= 0.83  # nominal 0.90, three standard errors of the simulation
