"""The gRPC client is tried on a server of its own transport, which keeps an exact schedule."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from builders.errors import EvidenceError
from builders.gate.speed import calibration, latency
from builders.gate.speed.calibration import Rehearsal, calibrate, metronome
from builders.gate.speed.latency import Pair, Settings
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.traffic import Load
from builders.gate.wire import client
from builders.progress import silent
from builders.serve.grpc import TritonEndpoint

SLACK = 1e-3  # the timer's own grain
REHEARSAL = Rehearsal.of(TritonEndpoint("nowhere", "m"))


def test_the_metronome_keeps_its_schedule_token_by_token():
    async def asked():
        async with metronome(0.05, 0.01, program=REHEARSAL.metronome) as (port, late):
            async with REHEARSAL.endpoint.like(port) as endpoint:
                request = client.Request(prompt="one two", max_tokens=6, ignore_eos=True)
                answers = [
                    await client.ask(endpoint, request, who="it", timeout=10.0) for _ in range(2)
                ]
            while len(late()) < 2:  # it says so after the last token left
                await asyncio.sleep(0.001)
            return answers, late()

    answers, late = asyncio.run(asked())
    for answer in answers:
        assert (answer.tokens, answer.finish, answer.text) == (6, "length", " a" * 6)
        for place, (time, _) in enumerate(answer.arrivals):
            assert time - answer.sent >= 0.05 + place * 0.01 - SLACK
    assert min(late) >= 0


def test_each_transport_is_calibrated_on_its_own():
    async def both():
        return [
            await calibrate(2, rehearsal=one, ttft=0.02, itl=0.002, tokens=4)
            for one in (REHEARSAL, calibration.HTTP)
        ]

    found = asyncio.run(both())
    assert [one.transport for one in found] == ["gRPC", "HTTP"]
    assert all(one.ttft_p50 > -SLACK for one in found)
    assert found[0] is not found[1]


def settings(share):
    load = Load(pairs=4, requests=2, warm_up=0, concurrency=1, tokens=Lengths.fixed(4))
    return Settings(load=load, confidence=0.95, margins={"ttft": 9.0}, client_share=share)


class Hasty(TritonEndpoint):
    """A client whose own work takes longer than the server's."""

    def like(self, port):
        return Hasty(f"127.0.0.1:{port}", "metronome")

    async def stream(self, prompt, **options):
        await asyncio.sleep(0.05)
        async for chunk in super().stream(prompt, **options):
            yield chunk


@pytest.mark.parametrize(("kind", "void"), [(TritonEndpoint, False), (Hasty, True)])
def test_the_gate_is_void_where_the_grpc_client_is_the_error(tmp_path, kind, void):
    def opened(port):
        @asynccontextmanager
        async def opener():
            async with kind(f"127.0.0.1:{port}", "metronome") as endpoint:
                yield endpoint

        return opener

    async def port_while(run):
        async with metronome(0.04, 0.005, program=REHEARSAL.metronome) as (port, _):
            return await asyncio.to_thread(run, Pair(baseline=opened(port), candidate=opened(port)))

    def measured(pair):
        calibration._found.clear()
        latency.measure(pair, settings(0.9 if not void else 0.4), tmp_path, silent)

    if void:
        with pytest.raises(EvidenceError, match="the gRPC client's TTFT was off by"):
            asyncio.run(port_while(measured))
        assert list(tmp_path.iterdir()) == []
    else:
        asyncio.run(port_while(measured))
        verdicts = latency.judge(tmp_path, tmp_path, settings(0.9))
        assert "gRPC client ttft_p50 error [ms]" in dict(verdicts[0].numbers)
