"""Answers stream over gRPC, and every failure of request or server is one `ToolError`."""

import asyncio
import time

import pytest

from builders import serve
from builders.errors import ToolError, UsageError
from builders.serve.grpc import TritonEndpoint

pytestmark = pytest.mark.slow


def ask(server, prompt, **options):
    async def gather():
        async with serve.endpoint(server)() as endpoint:
            answer = endpoint.stream(prompt, **{"max_tokens": 9} | options)
            return [chunk async for chunk in answer]

    return asyncio.run(gather())


def test_pieces_arrive_with_their_tokens_and_the_last_one_with_its_reason(server):
    pieces = ask(server, "a b c")
    assert [(piece.text, piece.tokens, piece.token_ids) for piece in pieces] == [
        ("a", 1, (0,)), ("b", 1, (0,)), ("c", 1, (0,)),
    ]  # fmt: skip
    assert [piece.finish_reason for piece in pieces] == [None, None, "length"]


def test_text_of_any_language_passes(server):
    assert "".join(piece.text for piece in ask(server, "größer 😀 日本")) == "größer😀日本"


def test_all_knobs_of_a_request_reach_the_server(server):
    options = {"temperature": 0.5, "seed": 2**62, "stop": ("x", "y"), "ignore_eos": True}
    assert len(ask(server, "a b c", max_tokens=2, **options)) == 2


def test_many_requests_run_at_once_on_one_connection(server):
    async def one(endpoint, number):
        answer = endpoint.stream(f"a{number} b{number}", max_tokens=9)
        return "".join([chunk.text async for chunk in answer])

    async def gather():
        async with serve.endpoint(server)() as endpoint:
            return await asyncio.gather(*(one(endpoint, number) for number in range(16)))

    assert asyncio.run(gather()) == [f"a{number}b{number}" for number in range(16)]


def test_leaving_the_loop_early_cancels_the_request(server):
    def cancelled():
        return int(ask(server, "count")[0].text)

    async def hang():
        async with asyncio.timeout(0.3), serve.endpoint(server)() as endpoint:
            async for _ in endpoint.stream("hang", max_tokens=9):
                pass

    before = cancelled()
    with pytest.raises(TimeoutError):
        asyncio.run(hang())
    until = time.monotonic() + 5
    while cancelled() == before:
        assert time.monotonic() < until, "the request went on"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("fail", "max_tokens must be at least 1"), ("half", "ended before its last piece")],
)
def test_a_request_that_fails_is_an_error(server, prompt, said):
    with pytest.raises(ToolError, match=said):
        ask(server, prompt)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 2**31}, "max_tokens 2147483648 cannot be sent as INT32"),
        ({"seed": -1}, "seed -1 cannot be sent as UINT64"),
        ({"stop": ["\ud800"]}, "stop .* cannot be sent as BYTES"),
    ],
)
def test_a_value_that_has_no_place_in_its_type_is_refused(server, options, named):
    with pytest.raises(UsageError, match=named):
        ask(server, "a", **options)


def test_an_unknown_model_is_an_error(server):
    async def gather():
        async with serve.endpoint(server, "other")() as endpoint:
            return [chunk async for chunk in endpoint.stream("a", max_tokens=1)]

    with pytest.raises(ToolError, match=r"other at 127\.0\.0\.1.*unknown model"):
        asyncio.run(gather())


def test_nobody_there_is_an_error_that_tells_what_is_known_of_the_server():
    async def gather():
        async with TritonEndpoint("127.0.0.1:9", "m", obituary=lambda: "it died") as endpoint:
            return [chunk async for chunk in endpoint.stream("a", max_tokens=1)]

    with pytest.raises(ToolError, match=r"UNAVAILABLE(.|\n)*it died"):
        asyncio.run(gather())


def test_the_smoke_test_returns_what_the_model_says(server):
    assert serve.smoke_test(server, "a b c d e", tokens=2) == "ab"


@pytest.mark.parametrize(("prompt", "said"), [("mute", "without a token"), ("fail", "max_tokens")])
def test_the_smoke_test_fails_where_the_model_does(server, prompt, said):
    with pytest.raises(ToolError, match=said):
        serve.smoke_test(server, prompt)
