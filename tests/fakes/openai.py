"""A stand-in for an OpenAI-compatible server: real sockets, real HTTP, answers as a script says."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

CUT = object()  # in a reply: the connection is cut
Reply = Sequence[bytes | float | object]  # bytes to send, seconds to wait, or CUT


def head(status="200 OK", kind="text/event-stream", **headers):
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def whole(status, body, **headers) -> Reply:
    """A response of known length; a dictionary becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/json"
    return (head(status, kind, content_length=len(data), **headers) + data,)


def stream(events: Sequence[bytes | float | object], *, done=True) -> Reply:
    """A response in chunks, a chunk for each event."""
    parts = [chunked(one) if isinstance(one, bytes) else one for one in events]
    end = [chunked(b"data: [DONE]\n\n"), b"0\r\n\r\n"] if done else []
    return (head(transfer_encoding="chunked"), *parts, *end)


def words(texts, *, usage="continuous", prompt=7, chat=False, finish="stop") -> list[bytes]:
    """Events of an answer; ``usage``: ``continuous``, ``final``, ``ids`` or none."""
    found = []
    for number, text in enumerate(texts, start=1):
        choice = {"index": 0, "finish_reason": finish if number == len(texts) else None}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        if usage == "ids":
            choice["token_ids"] = [number]
        more = {"usage": used(number, prompt)} if usage == "continuous" else {}
        found.append(event(choices=[choice], **more))
    if usage in {"continuous", "final"}:
        found.append(event(choices=[], usage=used(len(texts), prompt)))
    return found


def used(count, prompt=7):
    return {"prompt_tokens": prompt, "completion_tokens": count}


@dataclass
class Canned:
    """Answers each request with what ``reply`` makes of its path and body."""

    reply: Callable[[str, dict], Reply]
    asked: list[dict] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    open: dict[asyncio.StreamWriter, asyncio.Task] = field(default_factory=dict)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader, writer):
        self.connections += 1
        self.open[writer] = asyncio.current_task()
        try:
            while True:
                path, body = await self._request(reader)
                if not await self._answer(writer, self.reply(path, body)):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def hang_up(self):
        """Cut what clients left open, and wait until every socket is closed."""
        for writer, task in self.open.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(
            *self.open.values(),
            *(writer.wait_closed() for writer in self.open),
            return_exceptions=True,
        )

    async def _request(self, reader):
        raw = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(raw)
        lengths = [x.split(":")[1] for x in raw.lower().split("\r\n") if x.startswith("content-l")]
        body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else {}
        self.asked.append(body)
        return raw.split(" ", 2)[1], body

    async def _answer(self, writer, reply):
        for part in reply:
            if part is CUT:
                writer.transport.abort()
                return False
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()
        return True


@contextmanager
def serving_aside(reply):
    """Serve in a thread of its own, for clients that run their own event loop."""
    canned = reply if isinstance(reply, Canned) else Canned(reply)
    up: queue.Queue = queue.Queue()

    async def serve():
        over = asyncio.Event()
        async with serving(canned):
            up.put((asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    loop, over = up.get(timeout=10)
    try:
        yield canned
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@asynccontextmanager
async def serving(reply) -> AsyncIterator[Canned]:
    canned = reply if isinstance(reply, Canned) else Canned(reply)
    server = await asyncio.start_server(canned.handle, "127.0.0.1", 0)
    canned.port = server.sockets[0].getsockname()[1]
    try:
        yield canned
    finally:
        server.close()
        await canned.hang_up()
        await server.wait_closed()
