"""Working judges behind OpenAI's API: each reads what it is shown and replies as its kind does."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads

_SHOWN = re.compile(r"<answer_a>\n(.*?)\n</answer_a>.*<answer_b>\n(.*?)\n</answer_b>", re.DOTALL)


def shown(text):
    """Return the prompt and both answers that a judge is shown."""
    prompt = re.search(r"<prompt>\n(.*?)\n</prompt>", text, re.DOTALL)[1]
    return prompt, *_SHOWN.search(text).groups()


def fitting(text):
    """Prefer the answer that names the prompt's number; ties where both or none do."""
    prompt, first, second = shown(text)
    number = prompt.split()[-1]
    marks = [f"-{number}." in answer for answer in (first, second)]
    return "[[C]]" if marks[0] == marks[1] else "I prefer it. [[A]]" if marks[0] else "[[B]]"


def first_place(text):
    """Prefer whatever stands first."""
    return "[[A]]"


def undecided(text):
    return "They are both nice."


@contextmanager
def judging(opinion, *, models=("judge-1",), status=200):
    """Serve a judge on a free port; ``models`` are the names that it replies under, in turn."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"key": self.headers.get("authorization"), **body})
            message = {"content": opinion(body["messages"][0]["content"])}
            model = models[len(asked) % len(models)]
            reply = {"model": model, "choices": [{"message": message}]}
            if status != 200:
                reply = {"error": {"message": "no such judge"}}
            data = dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
