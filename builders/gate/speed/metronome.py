"""A server that answers on an exact schedule, to find out how exact a client is.

``python -m builders.gate.speed.metronome TTFT_S ITL_S`` serves OpenAI's streaming API on a free
port of 127.0.0.1, which is its first line of output. Token i of a request is due at arrival + TTFT
+ i * ITL, so that errors do not add up; after each request a line says how late its latest token
left.
"""

import asyncio
import json
import selectors
import socket
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LAST: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_MODELS: Final = b'{"object":"list","data":[{"id":"metronome","object":"model"}]}'
_KINDS: Final = {  # of chats and of completions: how an event is called, and where its text stands
    True: ("chat.completion.chunk", '"delta":{"role":"assistant","content":" a"}'),
    False: ("text_completion", '"text":" a"'),
}


class Metronome(asyncio.Protocol):
    """One connection: requests one after another, each answered in time."""

    def __init__(self, ttft: float, itl: float) -> None:
        self._ttft, self._itl = ttft, itl
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._late = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in a request, and start to answer one that is whole."""
        now = self._loop.time()
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = _length(head)
        if not end or len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        if not body:
            self._send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(_MODELS) + _MODELS)
            return
        asked = json.loads(body)
        words = str(asked.get("prompt") or asked.get("messages")).split()
        count = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        tokens = _tokens(count, prompt=len(words), chat="messages" in asked)
        self._late = 0.0
        self._loop.call_at(now + self._ttft, self._beat, now + self._ttft, 0, tokens)

    def _beat(self, due: float, place: int, tokens: Sequence[bytes]) -> None:
        """Send a token, and set the time of the next from when this one was due."""
        self._late = max(self._late, self._loop.time() - due)
        self._send(tokens[place] if place else _HEAD + tokens[0])
        if place + 1 < len(tokens):
            due += self._itl
            self._loop.call_at(due, self._beat, due, place + 1, tokens)
            return
        self._send(_LAST)
        sys.stdout.write(f"{self._late:.6f}\n")
        sys.stdout.flush()

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@lru_cache
def _tokens(count: int, *, prompt: int, chat: bool) -> list[bytes]:
    """Return an answer's events, each a chunk of HTTP, the last with its reason; made once."""
    found = []
    kind, text = _KINDS[chat]
    for number in range(1, count + 1):
        reason = '"length"' if number == count else "null"
        event = (
            f'{{"id":"m","object":"{kind}","model":"metronome",'
            f'"choices":[{{"index":0,{text},"finish_reason":{reason}}}],'
            f'"usage":{{"prompt_tokens":{prompt},"completion_tokens":{number},'
            f'"total_tokens":{prompt + number}}}}}'
        )
        line = f"data: {event}\n\n".encode()
        found.append(b"%x\r\n%b\r\n" % (len(line), line))
    return found


async def _serve(ttft: float, itl: float) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Metronome(ttft, itl), sock=listening)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


def _precise() -> asyncio.SelectorEventLoop:
    """Return a loop whose timers are not rounded up to a millisecond, as epoll's are."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise) as runner:
        runner.run(_serve(float(sys.argv[1]), float(sys.argv[2])))
