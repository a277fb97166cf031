"""One request: every piece is stamped, every way to fail is a named `EvidenceError`."""

import asyncio

import pytest

from builders.errors import EvidenceError
from builders.gate.wire.client import Request, ask, side_by_side
from fakes.endpoints import Scheduled, Scripted


def asked(endpoint, *, prompt="hello", timeout=30.0, max_tokens=8):
    request = Request(prompt=prompt, max_tokens=max_tokens)
    return asyncio.run(ask(endpoint, request, who="prompt 7", timeout=timeout))


def test_pieces_make_the_answer_and_the_empty_last_one_carries_no_token():
    answer = asked(Scripted({"hello": "one two three"}))
    assert answer.text == "one two three"
    assert answer.tokens == 3
    assert answer.finish == "stop"
    times = [answer.sent, *(time for time, _ in answer.arrivals), answer.ended]
    assert times == sorted(times)


def test_no_stamp_is_earlier_than_the_schedule():
    answer = asked(Scheduled(ttft=0.03, itl=0.01))
    waits = [time - answer.sent for time, _ in answer.arrivals]
    assert len(waits) == 8
    assert all(wait >= 0.03 + 0.01 * place - 1e-3 for place, wait in enumerate(waits))


def test_a_failing_server_is_named_with_its_own_hint():
    with pytest.raises(EvidenceError, match="prompt 7: the model fell over") as caught:
        asked(Scripted({"hello": "one two"}, fails_on="hello", survives=1))
    assert caught.value.hint == "read its log"


def test_a_server_that_hangs_is_given_up():
    with pytest.raises(EvidenceError, match="prompt 7: no whole answer within"):
        asked(Scripted({"hello": "one two"}, hangs=True), timeout=0.2)


def test_a_broken_connection_is_an_evidence_error():
    class Broken:
        async def stream(self, prompt, **_):
            raise ConnectionResetError("connection reset by peer")
            yield

    with pytest.raises(EvidenceError, match="prompt 7: connection reset by peer"):
        asked(Broken())


def test_work_is_done_in_order_and_never_by_more_workers_than_asked():
    begun, now, most = [], 0, 0

    async def work(job):
        nonlocal now, most
        begun.append(job)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    asyncio.run(side_by_side(range(20), work, workers=3))
    assert begun == list(range(20))
    assert most == 3


def test_the_first_failure_ends_all_work():
    ended = []

    async def work(job):
        if job == 1:
            raise EvidenceError("job 1 failed")
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(job)

    with pytest.raises(EvidenceError, match="job 1 failed"):
        asyncio.run(side_by_side(range(9), work, workers=3))
    assert sorted(ended) == [0, 2]
