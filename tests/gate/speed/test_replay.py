"""The load generator measured against endpoints whose true times are known.

No test asserts that something is fast: a busy machine may only ever make times longer.
"""

import asyncio
import gc
from dataclasses import replace
from itertools import pairwise
from time import perf_counter

import pytest

from builders.errors import EvidenceError
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.replay import replay, turn, undisturbed, until, warm, watched
from builders.gate.speed.traffic import Load, Recorded, replayed, trace
from fakes.endpoints import Scheduled, Scripted

LOAD = Load(pairs=4, requests=12, warm_up=2, tokens=Lengths.fixed(6), concurrency=3, timeout=30.0)
OPEN = replace(LOAD, rate=100.0, requests=10)
SLACK = 1e-3  # the clock's and the timer's own grain


def turned(endpoint, load=LOAD, pair=1):
    return asyncio.run(turn(endpoint, load, pair=pair, side="baseline"))


def sent(endpoint, load):
    shots = trace(load, 1, count=load.requests, part="load")
    return asyncio.run(replay(endpoint, load, shots, who="latency: pair 1, baseline"))


def test_both_sides_of_a_pair_get_the_same_trace_and_each_pair_its_own():
    for load in (LOAD, OPEN):
        first = trace(load, 1, count=12, part="load")
        assert trace(load, 1, count=12, part="load") == first
        assert {shot.prompt for shot in trace(load, 2, count=12, part="load")}.isdisjoint(
            shot.prompt for shot in first
        )
        assert trace(replace(load, seed=1), 1, count=12, part="load") != first


def test_prompts_are_as_long_as_asked_or_the_users_own():
    shots = trace(replace(LOAD, words=Lengths.uniform(3, 5)), 1, count=200, part="load")
    assert {len(shot.prompt.split()) for shot in shots} == {3, 4, 5}
    own = trace(replace(LOAD, texts=("a", "b")), 1, count=50, part="load")
    assert {shot.prompt for shot in own} == {"a", "b"}


def test_arrivals_of_an_open_loop_come_by_chance_at_the_rate():
    shots = trace(OPEN, 1, count=4000, part="load")
    assert shots[0].due == 0.0
    assert shots[-1].due == pytest.approx(4000 / 100.0, rel=0.1)
    gaps = [b.due - a.due for a, b in pairwise(shots)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1)  # as an exponential distribution has it


def test_times_are_never_shorter_than_the_schedule_and_tokens_are_all_counted():
    block = turned(Scheduled(ttft=0.02, itl=0.004))
    assert len(block.requests) == 12
    assert all(time >= 0.02 - SLACK for time in block.ttft)
    assert len(block.gaps) == 12 * 5
    assert len(block.itl) == 12
    for request in block.requests:
        assert request.arrivals[-1][0] - request.sent >= 0.02 + 5 * 0.004 - SLACK


def test_several_tokens_in_a_piece_are_counted_as_tokens():
    single, paired = (
        turned(Scheduled(ttft=0.01, itl=0.004, chunk=chunk), replace(LOAD, tokens=Lengths.fixed(9)))
        for chunk in (1, 3)
    )
    assert len(single.gaps) == 12 * 8
    assert len(paired.gaps) == 12 * 6
    assert len(paired.itl) == len(single.itl) == 12


def test_a_closed_loop_keeps_so_many_in_flight():
    server = Scripted(lambda prompt, seed: "a b c d e f")
    turned(server)
    assert server.most_in_flight == 3
    assert len(server.asked) == 2 + 12
    assert all(asked["ignore_eos"] and asked["max_tokens"] == 6 for asked in server.asked)


def test_an_open_loop_sends_when_due_and_counts_the_queue():
    server = Scheduled(ttft=0.05, itl=0.0, slots=1)
    timings = sent(server, replace(OPEN, rate=200.0))
    shots = trace(replace(OPEN, rate=200.0), 1, count=10, part="load")
    assert [timing.intended for timing in timings] == [shot.due for shot in shots]
    assert all(timing.sent >= timing.intended - SLACK for timing in timings)
    # Ten requests in about 50 ms, served one by one in 50 ms each: the last waits for the others.
    assert timings[-1].ttft >= 10 * 0.05 - timings[-1].intended - SLACK


def test_a_stall_shows_in_an_open_loop_as_long_as_it_was():
    timings = sent(Scheduled(ttft=0.01, itl=0.002, stall=(3, 0.2)), OPEN)
    whole = 0.01 + 5 * 0.002 + 0.2
    assert all(timing.arrivals[-1][0] - timing.sent >= whole - SLACK for timing in timings)
    assert all(len(timing.gaps) == 5 for timing in timings)


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (Scheduled(breaks_after=5), r"pair 1, baseline, request \d+: connection refused"),
        (Scheduled(breaks_after=0), r"pair 1, baseline, warm-up, request \d+: connection refused"),
        (Scripted(lambda prompt, seed: ""), "request 1: the answer has no token"),
        (Scheduled(short_by=2), r"request \d+: 4 tokens of 6 came \(length\)"),
    ],
)
def test_a_request_that_goes_wrong_is_named(server, complaint):
    with pytest.raises(EvidenceError, match=complaint):
        turned(server)


def test_the_watch_sees_an_event_loop_that_is_held_up():
    async def hog():
        async with watched() as lags:
            await asyncio.sleep(0.05)
            until = asyncio.get_running_loop().time() + 0.1
            while asyncio.get_running_loop().time() < until:
                pass
            await asyncio.sleep(0.02)
        return lags

    lags = asyncio.run(hog())
    assert max(lags) >= 0.05
    assert all(lag >= 0 for lag in lags)


def test_the_watch_ends_with_its_block_even_on_failure():
    import threading

    async def fail():
        async with watched():
            raise EvidenceError("no")

    before = threading.active_count()
    with pytest.raises(EvidenceError):
        asyncio.run(fail())
    assert threading.active_count() == before


def test_waiting_for_a_time_is_never_too_short():
    async def waited():
        found = []
        for seconds in (0.0, 0.0004, 0.01):
            due = perf_counter() + seconds
            await until(due)
            found.append(perf_counter() - due)
        return found

    assert all(late >= 0 for late in asyncio.run(waited()))


def test_every_batch_size_is_run_once_before_anything_is_timed():
    server = Scripted(lambda prompt, seed: "a b c d e f")
    asyncio.run(warm(server, replace(LOAD, concurrency=5), side="baseline"))
    assert len(server.asked) == 1 + 2 + 4 + 5
    assert server.most_in_flight == 5
    assert {asked["max_tokens"] for asked in server.asked} == {4}
    asyncio.run(warm(server, replace(LOAD, warm_up=0), side="baseline"))
    assert len(server.asked) == 12


def test_the_collector_rests_while_something_is_timed():
    with undisturbed():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_recorded_traffic_is_sent_as_it_came():
    recorded = tuple(
        Recorded(at_s=0.01 * n, output_tokens=n + 1, prompt_words=n + 1) for n in range(6)
    )
    load = replace(LOAD, recorded=recorded)
    server = Scheduled(ttft=0.001, itl=0.0)
    block = turned(server, load)
    assert [request.intended for request in block.requests] == [0.01 * n for n in range(6)]
    assert [request.tokens for request in block.requests] == [1, 2, 3, 4, 5, 6]
    assert sorted(len(prompt.split()) for prompt in server.prompts[2:]) == [1, 2, 3, 4, 5, 6]
    again, other = replayed(load, 1), replayed(load, 2)
    assert again == replayed(load, 1)
    assert other[5].prompt != again[5].prompt
