"""The client measures a server whose schedule is known before it measures one whose is not.

No test asserts that something is exact: a busy machine may only ever make times longer. How exact
it is on a quiet one is measured by tests/bench/latency.py.
"""

import asyncio
import json
import urllib.request
from time import perf_counter

import pytest

from builders.errors import EvidenceError, ToolError
from builders.gate.speed import calibration
from builders.gate.speed.calibration import calibrate, metronome
from builders.gate.wire import client
from builders.gate.wire.openai import OpenAiEndpoint

SLACK = 1e-3  # the timer's own grain


def url(port):
    return f"http://127.0.0.1:{port}/v1"


def test_nothing_comes_before_it_is_due():
    found = asyncio.run(calibrate(4, ttft=0.03, itl=0.004, tokens=8))
    assert found.concurrency == 4
    assert -SLACK < found.ttft_p50 <= found.ttft_p99
    assert found.server_p99 >= 0
    json.dumps(found.as_json())


def test_a_load_is_measured_once_in_a_process():
    async def twice():
        first = await calibrate(2, ttft=0.01, itl=0.001, tokens=4)
        begun = perf_counter()
        return first is await calibrate(2, ttft=0.01, itl=0.001, tokens=4), perf_counter() - begun

    same, seconds = asyncio.run(twice())
    assert same
    assert seconds < 0.01


def test_the_metronome_keeps_its_schedule_token_by_token():
    async def asked(*, chat):
        async with metronome(0.05, 0.01) as (port, late):
            async with OpenAiEndpoint(url=url(port), model="metronome", chat=chat) as endpoint:
                made = client.Request(prompt="one two three", max_tokens=6)
                answer = await client.ask(endpoint, made, who="it", timeout=10.0)
            while not late():  # it says so after the last token left
                await asyncio.sleep(0.001)
            return answer, late()

    for chat in (False, True):
        answer, late = asyncio.run(asked(chat=chat))
        assert (answer.tokens, answer.finish, answer.text) == (6, "length", " a" * 6)
        if not chat:
            assert answer.prompt_tokens == 3
        for place, (time, _) in enumerate(answer.arrivals):
            assert time - answer.sent >= 0.05 + place * 0.01 - SLACK
        assert len(late) == 1
        assert late[0] >= 0


def test_the_metronome_names_its_model_to_whoever_asks():
    async def listed():
        async with metronome(0.01, 0.01) as (port, _):
            opened = await asyncio.to_thread(urllib.request.urlopen, f"{url(port)}/models")
            with opened:
                return json.loads(opened.read())

    assert asyncio.run(listed())["data"][0]["id"] == "metronome"


def test_the_metronome_ends_with_its_block():
    async def gone():
        async with metronome(0.01, 0.01) as (port, _):
            pass
        async with OpenAiEndpoint(url=url(port), model="metronome") as endpoint:
            made = client.Request(prompt="x", max_tokens=1)
            await client.ask(endpoint, made, who="it", timeout=5.0)

    with pytest.raises(EvidenceError, match="it: http"):
        asyncio.run(gone())


def test_a_metronome_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr(calibration.sys, "executable", "/bin/false")

    async def started():
        async with metronome(0.01, 0.01):
            pass

    with pytest.raises(ToolError, match="the metronome did not start"):
        asyncio.run(started())
