"""Rates are decided as MLPerf decides, and a goodput is judged by what was decided only."""

import asyncio
import random
from dataclasses import replace

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.speed import goodput
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Timing
from builders.gate.speed.goodput import Attempt, Slo
from builders.parse import Table
from builders.verdict import Outcome

SLO = Slo(
    ttft_ms=500.0,
    itl_ms=30.0,
    share=0.99,
    confidence=0.99,
    least_rate=1.0,
    most_rate=64.0,
    steps=4,
    requests=662,
    margin=0.1,
)


@pytest.mark.parametrize(
    ("late", "least"), [(0, 459), (1, 662), (5, 1307), (10, 2010), (20, 3304), (50, 6898)]
)
def test_a_rate_is_good_from_as_many_requests_on_as_mlperf_has_it(late, least):
    assert SLO.decide(late, least) is True
    assert SLO.decide(late, least - 1) is None


def test_a_rate_is_bad_when_so_many_late_answers_are_no_chance():
    assert SLO.decide(7, 662) is None
    assert SLO.decide(662, 662) is False
    assert SLO.decide(15, 662) is False


def test_rarely_is_a_rate_at_the_limit_called_good_or_bad():
    dice = random.Random(1)
    late = (sum(dice.random() < 0.01 for _ in range(662)) for _ in range(2000))
    said = [SLO.decide(count, 662) for count in late]
    assert said.count(True) / 2000 <= 0.02
    assert said.count(False) / 2000 <= 0.02


def test_a_request_is_kept_by_both_promises():
    def timing(first, gap):
        return Timing(
            intended=0.0, sent=0.1, arrivals=tuple((first + gap * n, 1) for n in range(4))
        )

    assert SLO.kept(timing(0.4, 0.02))
    assert not SLO.kept(timing(0.6, 0.02))  # from when it was due, not from when it left
    assert not SLO.kept(timing(0.4, 0.04))
    assert SLO.kept(Timing(intended=0.0, sent=0.0, arrivals=((0.4, 9),)))


def searched(limit, side=BASELINE, slo=SLO):
    async def attempt(rate):
        return 0 if rate <= limit else slo.requests

    return asyncio.run(goodput.search(slo, side, attempt))


def test_the_search_halves_towards_the_limit():
    tried = searched(10.0)
    assert [round(one.rate, 2) for one in tried] == [64.0, 1.0, 8.0, 22.63, 13.45, 10.37]
    assert len(searched(100.0)) == 1
    assert len(searched(0.5)) == 2


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        (10.0, 10.0, Outcome.INCONCLUSIVE),  # the bracket is wider than the margin
        (10.0, 40.0, Outcome.PASSED),
        (40.0, 10.0, Outcome.FAILED),
        (10.0, 100.0, Outcome.PASSED),
        (100.0, 100.0, Outcome.INCONCLUSIVE),  # no rate was too high for either
        (10.0, 0.5, Outcome.FAILED),
    ],
)
def test_goodputs_are_compared_by_their_brackets(old, new, outcome):
    attempts = [*searched(old), *searched(new, CANDIDATE)]
    found = goodput.verdict(SLO, attempts)
    assert found.outcome is outcome
    assert found.low <= found.worse_by <= found.high


def test_more_steps_settle_it():
    slo = replace(SLO, steps=9)
    attempts = [*searched(10.0, slo=slo), *searched(10.0, CANDIDATE, slo)]
    assert goodput.verdict(slo, attempts).outcome is Outcome.PASSED


def test_a_rate_that_was_not_decided_bounds_nothing():
    attempts = [
        Attempt(side=side, rate=rate, count=662, late=late)
        for side in (BASELINE, CANDIDATE)
        for rate, late in ((1.0, 0), (8.0, 5), (64.0, 600))
    ]
    found = goodput.verdict(SLO, attempts)
    assert "bad at 64" in found.detail
    assert dict(found.numbers)["baseline goodput [1/s]"] == 1.0


def test_a_baseline_that_never_keeps_the_promise_is_no_instrument():
    with pytest.raises(EvidenceError, match="does not keep the promise at 1 requests"):
        goodput.verdict(SLO, [*searched(0.5), *searched(10.0, CANDIDATE)])


def test_attempts_survive_evidence():
    tried = searched(10.0)
    assert goodput.read([one.as_json() for one in tried]) == tuple(tried)
    assert goodput.read([{"unit": "pair-1/baseline", "pair": 1}]) == ()


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"requests": 458}, "458 requests prove nothing"),
        ({"share": 1.0}, "must lie between 0 and 1"),
        ({"most_rate": 1.0}, "most_rate is not above"),
        ({"ttft": 1}, "unknown key"),
    ],
)
def test_a_promise_that_cannot_be_proved_is_refused(keys, complaint):
    given = {"ttft_ms": 500, "itl_ms": 30, "least_rate": 1, "most_rate": 64}
    with pytest.raises(UsageError, match=complaint):
        Slo.parse(Table(given | keys, place="policy.toml", prefix="latency.slo."))
