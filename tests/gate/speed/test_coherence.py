"""A server that says nothing, or that reads only a part of its prompts, is not timed at all."""

import asyncio
from dataclasses import replace

import pytest

from builders.errors import EvidenceError
from builders.gate.speed.coherence import refuse_silence
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.traffic import Load
from builders.gate.wire.openai import OpenAiEndpoint
from fakes.endpoints import Scheduled, Scripted
from fakes.openai import event, serving, stream, used

LOAD = Load(pairs=4, requests=6, warm_up=1, tokens=Lengths.fixed(3), concurrency=3, timeout=30.0)


def reading(limit, *, template=0):
    """A server that counts words as tokens, adds a template, and reads ``limit`` at most."""

    def reply(path, body):
        tokens = min(len(body["prompt"].split()) + template, limit)
        choice = {"text": "a", "finish_reason": "length"}
        return stream([event(choices=[choice], usage=used(body["max_tokens"], tokens))])

    async def asked():
        load = replace(LOAD, words=Lengths.uniform(40, 64))
        async with serving(reply) as server, OpenAiEndpoint(url=server.url, model="m") as endpoint:
            await refuse_silence(endpoint, load, side="candidate")

    asyncio.run(asked())


@pytest.mark.parametrize("template", [0, 30])
def test_a_server_that_reads_all_is_timed(template):
    reading(10_000, template=template)


@pytest.mark.parametrize("limit", [8, 20, 39])
@pytest.mark.parametrize("template", [0, 10])
def test_a_server_that_truncates_is_not(limit, template):
    with pytest.raises(EvidenceError, match=r"candidate reads \d+ tokens .* it truncates prompts"):
        reading(limit + template, template=template)


def test_a_server_that_says_nothing_is_not():
    for server in (Scripted(lambda prompt, seed: ""), Scheduled(0.001, 0.0, mute=True)):
        with pytest.raises(EvidenceError, match="answers a prompt with nothing"):
            asyncio.run(refuse_silence(server, LOAD, side="baseline"))


def test_a_server_that_does_not_count_prompts_is_asked_once():
    server = Scheduled(0.001, 0.0)
    asyncio.run(refuse_silence(server, LOAD, side="baseline"))
    assert len(server.prompts) == 1
