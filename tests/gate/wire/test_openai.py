"""A server that speaks OpenAI's API is read token by token, and each of its failures has a name."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from builders.errors import EvidenceError, ToolError, UsageError
from builders.gate.wire import client
from builders.gate.wire.http import Connection, _response
from builders.gate.wire.openai import OpenAiEndpoint
from fakes.openai import CUT, Canned, chunked, event, head, serving, stream, used, whole, words


@asynccontextmanager
async def opened(reply, **keys):
    async with serving(reply) as server, OpenAiEndpoint(url=server.url, model="m", **keys) as made:
        yield made, server


DONE = [{"text": "a", "finish_reason": "stop"}]


def ask(reply, *, times=1, timeout=10.0, request=None, **keys):
    """Ask a server a few times; return the answers and the server."""

    async def asked():
        made = request or client.Request(prompt="Hello", max_tokens=3)
        async with opened(reply, **keys) as (endpoint, server):
            answers = [
                await client.ask(endpoint, made, who="it", timeout=timeout) for _ in range(times)
            ]
        return answers, server

    return asyncio.run(asked())


def said(events, **keys):
    answers, _ = ask(lambda path, body: stream(events), **keys)
    return answers[0]


@pytest.mark.parametrize("usage", ["continuous", "final", "ids"])
@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_is_read_with_every_way_to_count_its_tokens(usage, chat):
    answer = said(words(["a", " b", " c"], usage=usage, chat=chat), chat=chat)
    assert (answer.text, answer.finish, answer.tokens) == ("a b c", "stop", 3)
    assert [tokens for _, tokens in answer.arrivals] == [1, 1, 1]
    if usage != "ids":
        assert answer.prompt_tokens == 7


def test_a_long_body_that_comes_with_the_head_is_no_long_head():
    """As from a fast server to a client that was kept waiting: all of it in one reading."""

    async def read():
        connection = Connection()
        connection.data_received(head(content_length=100_000) + b"x" * 100_000)
        response = await _response(connection)
        return response.status, await response.read()

    assert asyncio.run(read()) == (200, b"x" * 100_000)


def test_pieces_of_several_tokens_are_counted_as_tokens():
    events = [
        event(choices=[{"text": "a b"}], usage=used(2)),
        event(choices=[{"text": ""}], usage=used(3)),  # a token that makes no whole character
        event(choices=[{"text": " c d", "finish_reason": "length"}], usage=used(6)),
    ]
    assert [tokens for _, tokens in said(events).arrivals] == [2, 1, 3]


@pytest.mark.parametrize(
    ("total", "shares"), [(3, [1, 1, 1]), (7, [3, 2, 2]), (2, [1, 1]), (9, [3, 3, 3])]
)
def test_a_count_that_comes_at_the_end_is_spread_over_the_pieces(total, shares):
    events = [*words(["a", " b", " c"], usage=None), event(choices=[], usage=used(total))]
    answer = said(events)
    assert [tokens for _, tokens in answer.arrivals] == shares
    assert answer.tokens == total


def test_the_head_of_a_chat_is_no_token_and_reasoning_is():
    events = [
        event(choices=[{"delta": {"role": "assistant", "content": ""}}]),
        event(choices=[{"delta": {"reasoning_content": "hm"}}]),
        event(choices=[{"delta": {"content": "yes"}, "finish_reason": "stop"}]),
        event(choices=[], usage=used(2)),
    ]
    answer = said(events, chat=True)
    assert (answer.text, answer.tokens, len(answer.arrivals)) == ("yes", 2, 2)


def test_pieces_are_stamped_when_their_bytes_came():
    events = [words(["a"], usage="ids", finish=None)[0], 0.05, *words(["b"], usage="ids")]
    (first, _), (second, _) = said(events).arrivals
    assert second - first >= 0.045


def test_events_may_be_cut_anywhere():
    body = b"".join(words(["a", " b"])) + b"data: [DONE]\n\n"
    raw = head(transfer_encoding="chunked") + chunked(body[:37]) + chunked(body[37:]) + b"0\r\n\r\n"
    pieces = [raw[place : place + 1] for place in range(len(raw))]
    answers, _ = ask(lambda path, body: pieces, times=2)
    assert [answer.text for answer in answers] == ["a b", "a b"]


def test_what_is_asked_is_what_the_server_gets():
    request = client.Request(prompt="Hi", max_tokens=5, stop=("\n",), seed=3, ignore_eos=True)
    _, server = ask(lambda path, body: stream(words(["a"])), request=request, key="secret")
    (body,) = server.asked
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("m", "Hi", 5)
    assert (body["ignore_eos"], body["min_tokens"], body["stop"]) == (True, 5, ["\n"])
    assert "POST /v1/completions HTTP/1.1" in server.heads[0]
    assert "Authorization: Bearer secret" in server.heads[0]
    _, server = ask(lambda path, body: stream(words(["a"], chat=True)), chat=True)
    assert "POST /v1/chat/completions" in server.heads[0]
    assert server.asked[0]["messages"] == [{"role": "user", "content": "Hello"}]
    assert "ignore_eos" not in server.asked[0]


def test_a_connection_serves_one_request_after_another():
    _, server = ask(lambda path, body: stream(words(["a"])), times=3)
    assert server.connections == 1


def test_a_connection_that_the_server_had_closed_is_replaced():
    class Closing(Canned):
        async def _answer(self, writer, reply):
            await super()._answer(writer, reply)
            return False

    answers, server = ask(Closing(lambda path, body: stream(words(["a"]))), times=3)
    assert len(answers) == 3
    assert server.connections == 3


def test_an_answer_of_no_stated_length_ends_with_its_connection():
    body = b"".join(words(["a", " b"])) + b"data: [DONE]\n\n"
    answers, _ = ask(lambda path, _: (head(), body, CUT))
    assert answers[0].text == "a b"


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (whole("200 OK", {"error": {"message": "out of memory"}}), "status 200: out of memory"),
        (whole("200 OK", {"object": "error", "message": "no"}), "status 200: no"),
        (whole("200 OK", {"choices": [{"text": "a"}]}), "the answer is not a stream"),
        (whole("200 OK", b"<html>"), "status 200: '<html>'"),
        (
            whole("400 Bad Request", {"error": {"message": "chat template: too deep"}}),
            "status 400: chat template: too deep",
        ),
        (whole("404 Not Found", {"detail": "x"}), "status 404"),
        (whole("500 Internal Server Error", b"oops"), "status 500: 'oops'"),
        (stream([event(error={"message": "engine died"})]), "engine died"),
        (stream([event(error="plain")]), "status 200: plain"),
        (stream([b"data: {nonsense\n\n"]), "status 200: '{nonsense'"),
        (stream(words(["a"], finish=None)), "ended before its last piece"),
        (stream(words(["a"], usage=None)), "does not say how many tokens it wrote"),
        (
            stream([event(choices=DONE, usage={"completion_tokens": float("nan")})]),
            "does not say how many tokens it wrote",
        ),
        ((*stream(words(["a", "b"])[:1], done=False), CUT), "the answer broke off"),
        ((CUT,), "no answer: "),
        ((b"HTTP/1.1 200 OK\r\n", CUT), "no answer: "),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), "is not HTTP/1.1: 'SSH-2.0-OpenSSH'"),
        ((b"x" * 70_000,), "the answer is not HTTP"),
        ((head(transfer_encoding="chunked"), b"zz\r\n"), "'zz' is no number"),
        ((head(content_length="many"),), "'many' is no number"),
        ((head(content_length=5), b"data:", CUT), "ended within a line"),
        ((*stream([b"data: {"], done=False), b"0\r\n\r\n"), "ended within a line"),
    ],
)  # fmt: skip
def test_a_server_that_fails_is_named(reply, complaint):
    with pytest.raises(EvidenceError) as caught:
        ask(lambda path, body: reply)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("it: ")


def test_a_server_that_never_ends_runs_into_the_timeout():
    with pytest.raises(EvidenceError, match=r"it: no whole answer within 0\.2 s"):
        ask(lambda path, body: (*stream(words(["a"]), done=False), 30.0), timeout=0.2)


def test_a_server_that_is_not_there_is_named():
    async def asked():
        async with OpenAiEndpoint(url="http://127.0.0.1:1/v1", model="m") as endpoint:
            made = client.Request(prompt="Hello", max_tokens=3)
            await client.ask(endpoint, made, who="it", timeout=5.0)

    with pytest.raises(EvidenceError, match=r"http://127\.0\.0\.1:1/v1: "):
        asyncio.run(asked())


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://"])
def test_what_is_no_url_is_refused(url):
    async def entered():
        async with OpenAiEndpoint(url=url, model="m"):
            pass

    with pytest.raises(UsageError, match="is no URL of a server"):
        asyncio.run(entered())


def test_leaving_early_ends_the_connection():
    async def left():
        async with opened(lambda path, body: stream(words(["a", " b"]))) as (endpoint, server):
            for _ in range(2):
                answer = endpoint.stream(
                    "x", max_tokens=2, temperature=0.0, seed=0, stop=(), ignore_eos=False
                )
                await anext(answer)
                await answer.aclose()
        return server.connections

    assert asyncio.run(left()) == 2


def told(reply):
    async def asked():
        async with opened(lambda path, body: reply) as (endpoint, server):
            return await endpoint.ask([{"role": "user", "content": "?"}], max_tokens=4), server

    return asyncio.run(asked())


def test_a_whole_answer_names_the_model_that_gave_it():
    message = {"choices": [{"message": {"content": "A"}}], "model": "judge-1"}
    answer, server = told(whole("200 OK", message | {"system_fingerprint": "fp_1"}))
    assert (answer.text, answer.model) == ("A", "judge-1 fp_1")
    assert (server.asked[0]["temperature"], server.asked[0]["max_tokens"]) == (0, 4)
    assert told(whole("200 OK", message))[0].model == "judge-1"


@pytest.mark.parametrize("body", [{"choices": []}, {"error": {"message": "no"}}, b"{"])
def test_a_whole_answer_that_is_none_is_named(body):
    with pytest.raises(ToolError, match="m at http"):
        told(whole("200 OK", body))
