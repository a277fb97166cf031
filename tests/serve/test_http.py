"""Every failure over HTTP is one `ToolError`, whatever status and body it hides behind."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from builders.errors import ToolError, UsageError
from builders.serve import http


@contextmanager
def answering(status, body, *, cut=0):
    """Serve a model with the inputs text_input and max_tokens that always answers the same."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            tensors = [{"name": "text_input"}, {"name": "max_tokens"}, {"name": "stream"}]
            self.reply(200, json.dumps({"inputs": tensors, "version": "2.51.0"}).encode())

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(status, body, cut)

        def reply(self, status, body, cut=0):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + cut))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


ANSWER = {"text_output": "a", "token_ids": 7, "token_count": 1, "finish_reason": "stop"}


def event(**found):
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def test_a_list_of_one_that_triton_wrote_as_its_member_is_a_list_again():
    with answering(200, json.dumps(ANSWER).encode()) as url:
        chunk = http.generate(url, "m", "x")
    assert (chunk.text, chunk.tokens, chunk.token_ids, chunk.finish_reason) == (
        "a",
        1,
        (7,),
        "stop",
    )


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"error": "expected exactly 1 response"}', "m: expected exactly 1 response"),
        (400, b'{"error": "max_tokens"}', "m: max_tokens"),
        (500, b"<html>no JSON</html>", "status 500, '<html>no JSON"),
        (200, b"no JSON", "status 200, 'no JSON'"),
        (200, b"[]", "status 200"),
        (200, b"{}", "no text_output"),
    ],
)
def test_a_failure_is_an_error_whatever_its_status(status, body, said):
    with answering(status, body) as url, pytest.raises(ToolError, match=said):
        http.generate(url, "m", "x")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, event(error="the model fell over"), "m: the model fell over"),
        (400, event(error="max_tokens"), "m: max_tokens"),
        (404, b'{"error": "unknown model"}', "m: unknown model"),
        (200, event(**ANSWER | {"finish_reason": ""}), "ended before its last piece"),
        (200, b"", "ended before its last piece"),
        (200, b"data: no JSON\n\n", "no JSON"),
    ],
)
def test_a_failure_within_a_stream_is_an_error(status, body, said):
    with answering(status, body) as url, pytest.raises(ToolError, match=said):
        list(http.generate_stream(url, "m", "x"))


def test_a_model_that_never_gives_reasons_ends_where_its_stream_ends():
    with answering(200, event(text_output="a") + event(text_output="b")) as url:
        assert [chunk.text for chunk in http.generate_stream(url, "m", "x")] == ["a", "b"]


def test_a_connection_that_breaks_off_is_an_error():
    body = json.dumps(ANSWER).encode()
    with answering(200, body, cut=10) as url, pytest.raises(ToolError, match="IncompleteRead"):
        http.generate(url, "m", "x")


def test_nobody_there_is_an_error_and_not_ready():
    with answering(200, b"") as url:
        pass
    assert not http.ready(url)
    with pytest.raises(ToolError, match="refused"):
        http.generate(url, "m", "x")


def test_a_name_that_is_no_input_is_refused_before_it_is_sent():
    with (
        answering(200, b"") as url,
        pytest.raises(UsageError, match="no input max_token") as caught,
    ):
        http.generate(url, "m", "x", max_token=5)
    assert caught.value.hint == "did you mean max_tokens?"


def test_what_json_cannot_say_is_refused():
    with answering(200, b"") as url, pytest.raises(UsageError, match="JSON"):
        http.generate(url, "m", "x", max_tokens=float("nan"))


@pytest.mark.slow
def test_a_real_server_answers_in_one_piece_and_in_many(server):
    whole = http.generate(server.http_url, "echo", "a b c d", max_tokens=3)
    assert (whole.text, whole.tokens, whole.finish_reason) == ("abc", 3, "length")
    pieces = list(http.generate_stream(server.http_url, "echo", "a b c"))
    assert [(piece.text, piece.tokens) for piece in pieces] == [("a", 1), ("b", 1), ("c", 1)]
    assert [piece.finish_reason for piece in pieces] == [None, None, "length"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "said"), [("fail", "max_tokens must be"), ("many", "exactly 1 response")]
)
def test_a_real_error_is_an_error(server, prompt, said):
    with pytest.raises(ToolError, match=said):
        http.generate(server.http_url, "echo", prompt)


@pytest.mark.slow
def test_closing_the_iterator_cancels_the_request(server):
    def cancelled():
        return int(http.generate(server.http_url, "echo", "count").text)

    before = cancelled()
    answer = http.generate_stream(server.http_url, "echo", "babble")
    assert next(answer).text == "bla"
    answer.close()
    until = time.monotonic() + 5
    while cancelled() == before:
        assert time.monotonic() < until, "the request went on"
        time.sleep(0.02)


def test_an_answer_that_does_not_come_in_time_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ToolError, match=r"no answer within 0\.1 s"):
            http.version(url, timeout=0.1)
