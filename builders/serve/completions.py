"""Ask a server's completions over HTTP/1.1, from plain threads: connections are kept and shared.

A request is sent again only where nothing can have been computed twice to anybody's harm: the
server is not up yet, or says that it has no room (429, 503). Everything else is a `ToolError`.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from builders.errors import ToolError, UsageError

_HINT: Final = "read the server's log"
_BUSY: Final = frozenset({429, 503})
_MOST: Final = 1 << 28  # bytes of an answer: 16 tokens a place of 100,000 take a third of it
_WAIT_S: Final = 0.25  # between tries to reach a server that is starting
_WAITS_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0)  # between tries where it has no room
_ENDED: Final = (BrokenPipeError, ConnectionResetError, http.client.BadStatusLine)


def _nobody() -> str:
    return ""


@dataclass(slots=True, kw_only=True)
class Completions:
    """One server at ``http://host:port`` or ``…/v1``; safe to use from many threads.

    A refused connection is tried again for ``start`` seconds, until the first answer. ``timeout``
    bounds each request, in seconds. ``obituary`` says why the server died, where anybody knows.
    """

    url: str
    key: str = field(default="", repr=False)
    timeout: float = 600.0
    start: float = 0.0
    obituary: Callable[[], str] = _nobody
    _idle: list[http.client.HTTPConnection] = field(default_factory=list, repr=False)
    _busy: set[http.client.HTTPConnection] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _met: bool = False
    _closed: bool = False

    def __post_init__(self) -> None:
        place = urlsplit(self.url)
        if place.scheme not in {"http", "https"} or not place.hostname:
            raise UsageError(f"{self.url} is no URL of a server", hint="http://127.0.0.1:8000/v1")
        self.url = self.url.rstrip("/").removesuffix("/v1") + "/v1"

    def get(self, path: str) -> dict[str, Any]:
        """Return the object that a path answers with."""
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return the object that a path answers a request with."""
        return self._asked("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """End every connection, also one that waits for an answer; nothing can be asked then."""
        with self._lock:
            self._closed = True
            held = [*self._idle, *self._busy]
            self._idle.clear()
        for connection in held:
            _shut(connection)

    def _asked(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        status, raw = self._sent(method, path, body)
        for wait in _WAITS_S:
            if status not in _BUSY:
                break
            time.sleep(wait)
            status, raw = self._sent(method, path, body)
        return _understood(self.url, status, raw)

    def _sent(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        until = time.monotonic() + self.start
        while True:
            try:
                answer = self._once(method, path, body)
            except ConnectionRefusedError as error:
                if self._met or time.monotonic() > until:
                    raise self._died("connection refused", "is the server up?") from error
                time.sleep(_WAIT_S)
            except TimeoutError as error:
                raise self._died(f"no answer within {self.timeout:g} s", _HINT) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._died(str(error) or type(error).__name__, _HINT) from error
            else:
                self._met = True
                return answer

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Ask on a kept connection; those that the server closed meanwhile are replaced."""
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            try:
                return self._on(kept or self._made(), method, path, body)
            except _ENDED:
                if kept is None:
                    raise

    def _on(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes]:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("closed")
            self._busy.add(connection)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        whole = False
        try:
            connection.request(method, f"{urlsplit(self.url).path}{path}", body, headers)
            response = connection.getresponse()
            answer = response.status, response.read(_MOST)
            if len(answer[1]) == _MOST:
                raise http.client.HTTPException(f"the answer is longer than {_MOST >> 20} MiB")
            whole = not response.will_close
        finally:
            with self._lock:
                self._busy.discard(connection)
                if keep := whole and not self._closed:
                    self._idle.append(connection)
            if not keep:
                connection.close()
        return answer

    def _made(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        host, port = str(place.hostname), place.port
        if place.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def _died(self, why: str, hint: str) -> ToolError:
        story = self.obituary()
        return ToolError(f"{self.url}: {why}" + (f"\n{story}" if story else ""), hint=hint)


def _shut(connection: http.client.HTTPConnection) -> None:
    """Wake whoever waits on a connection, then close it."""
    held = connection.sock
    if held is not None:
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)
    connection.close()


def _understood(url: str, status: int, raw: bytes) -> dict[str, Any]:
    """Return an answer; an error in it is one whatever its status says."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        said = raw[:200].decode(errors="replace")
        raise ToolError(f"{url}: status {status}, and no object: {said!r}", hint=_HINT)
    error = found.get("error") or (found if found.get("object") == "error" else None)
    if error or status != 200:
        told = error if isinstance(error, dict) else {"message": error or found}
        raise ToolError(f"{url}: status {status}: {str(told.get('message'))[:500]}", hint=_HINT)
    return found
