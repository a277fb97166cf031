"""A small HTTP/1.1 client that notes when bytes came before anything else is done with them.

A load generator's own work must not look like the server's: a connection only stamps and keeps
what it gets, so that of many answers that come at once none is stamped after another was parsed.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, cast
from urllib.parse import urlsplit

from builders.errors import ToolError, UsageError

_HINT: Final = "read the server's log"
_MOST_UNREAD: Final = 1 << 26
_MOST_HEAD: Final = 1 << 16

Stamped = tuple[float, bytes]


class _Gone(ToolError):
    """The connection ended before the first byte of an answer."""


class Connection(asyncio.Protocol):
    """One connection: what came and when, in order."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self._arrived: deque[Stamped] = deque()
        self._unread = 0
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Stamp and keep what came."""
        self._arrived.append((perf_counter(), data))
        self._unread += len(data)
        if self._unread > _MOST_UNREAD:
            self.close("more came than anybody reads")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note why there will be no more."""
        self.lost = self.lost or (str(exc) if exc else "the server closed the connection")
        self._wake()

    def send(self, data: bytes) -> None:
        """Send a request."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self, why: str = "closed") -> None:
        """End the connection at once."""
        self.lost = self.lost or why
        if self._transport is not None:
            self._transport.abort()

    def push_back(self, piece: Stamped) -> None:
        """Put back what was read too far."""
        if piece[1]:
            self._arrived.appendleft(piece)
            self._unread += len(piece[1])

    async def next(self) -> Stamped | None:
        """Return the next bytes with the time at which they came; None after the last."""
        while not self._arrived:
            if self.lost is not None:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        piece = self._arrived.popleft()
        self._unread -= len(piece[1])
        return piece

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response whose head has been read."""

    status: int
    headers: Mapping[str, str]
    connection: Connection

    @property
    def keeps(self) -> bool:
        """Whether the connection may serve another request."""
        return self.headers.get("connection", "").lower() != "close"

    async def pieces(self) -> AsyncIterator[Stamped]:
        """Yield the body as it comes; one that ends too early is a `ToolError`."""
        left: Length | Chunked | None = None
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            left = Chunked()
        elif "content-length" in self.headers:
            left = Length(_number(self.headers["content-length"], 10))
        while left is None or not left.done:
            piece = await self.connection.next()
            if piece is None:
                if left is None:
                    return
                raise ToolError(f"the answer broke off: {self.connection.lost}", hint=_HINT)
            data = left.feed(piece[1]) if left is not None else piece[1]
            if data:
                yield piece[0], data

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([data async for _, data in self.pieces()])


@dataclass(slots=True)
class Length:
    """A body of known length."""

    left: int

    @property
    def done(self) -> bool:
        """Whether all of it came."""
        return self.left <= 0

    def feed(self, data: bytes) -> bytes:
        """Return what of the data is body."""
        found = data[: self.left]
        self.left -= len(found)
        return found


@dataclass(slots=True)
class Chunked:
    """A body in chunks (RFC 9112, section 7.1); trailers are read over."""

    done: bool = False
    _buffer: bytes = b""
    _left: int = 0
    _trailing: bool = False

    def feed(self, data: bytes) -> bytes:
        """Return what of the data is body."""
        self._buffer += data
        found: list[bytes] = []
        while self._buffer and not self.done:
            if self._left > 2:
                part = self._buffer[: self._left - 2]
                found.append(part)
            elif self._left:
                part = self._buffer[: self._left]  # the line's end after a chunk
            else:
                if not self._head():
                    break
                continue
            self._left -= len(part)
            self._buffer = self._buffer[len(part) :]
        return b"".join(found)

    def _head(self) -> bool:
        """Read one line between chunks; return whether a whole one was there."""
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        if self._trailing:
            self.done = not line
        else:
            size = _number(line.partition(b";")[0].decode("latin-1"), 16)
            self._trailing, self._left = not size, size + 2 if size else 0
        return True


@dataclass(slots=True, kw_only=True)
class Client:
    """Connections to one server, kept for the next request; belongs to one event loop."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    _idle: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        place = urlsplit(self.url)
        if place.scheme not in {"http", "https"} or not place.hostname:
            raise UsageError(f"{self.url} is no URL of a server", hint="http://127.0.0.1:8000/v1")

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[Response]:
        """Send a request and read the head of its response; leaving early ends the connection."""
        try:
            connection, response = await self._asked(path, body)
        except OSError as error:
            raise ToolError(f"{self.url}: {error}", hint="is the server up?") from error
        whole = False
        try:
            yield response
            whole = True
        finally:
            if whole and response.keeps and connection.lost is None:
                self._idle.append(connection)
            else:
                connection.close()

    async def _asked(self, path: str, body: bytes) -> tuple[Connection, Response]:
        """Ask on a kept connection; one that the server had closed meanwhile is replaced."""
        request = self._request(path, body)
        while self._idle:
            connection = self._idle.pop()
            if connection.lost is None:
                with suppress(_Gone):
                    return connection, await self._head(connection, request)
        connection = await self._connected()
        return connection, await self._head(connection, request)

    async def _connected(self) -> Connection:
        place = urlsplit(self.url)
        secure = place.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection,
            str(place.hostname),
            place.port or (443 if secure else 80),
            ssl=ssl.create_default_context() if secure else None,
        )
        return connection

    def _request(self, path: str, body: bytes) -> bytes:
        place = urlsplit(self.url)
        lines = [
            f"POST {place.path.rstrip('/')}{path} HTTP/1.1",
            f"Host: {place.netloc.rpartition('@')[2]}",
            "Content-Type: application/json",
            "Accept: text/event-stream, application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def _head(self, connection: Connection, request: bytes) -> Response:
        try:
            connection.send(request)
            return await _response(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End all kept connections."""
        while self._idle:
            self._idle.pop().close()


async def _response(connection: Connection) -> Response:
    head, stamp = b"", 0.0
    while b"\r\n\r\n" not in head:
        piece = await connection.next()
        if piece is None:
            gone = _Gone if not head else ToolError
            raise gone(f"no answer: {connection.lost}", hint=_HINT)
        stamp = piece[0]
        head += piece[1]
        if len(head) > _MOST_HEAD and b"\r\n\r\n" not in head:  # a body may come with it
            raise ToolError("the answer is not HTTP", hint="is this the right port?")
    raw, _, rest = head.partition(b"\r\n\r\n")
    connection.push_back((stamp, rest))
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if not parts[0].startswith("HTTP/1.") or len(parts) < 2:
        raise ToolError(f"the answer is not HTTP/1.1: {first[:60]!r}", hint="is this the port?")
    named = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in named}
    return Response(status=_number(parts[1], 10), headers=headers, connection=connection)


def _number(text: str, base: int) -> int:
    try:
        return int(text.strip(), base)
    except ValueError:
        raise ToolError(f"the answer is not HTTP: {text[:60]!r} is no number", hint=_HINT) from None
