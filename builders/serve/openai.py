"""Starts a server that speaks the OpenAI protocol (trtllm-serve, vLLM), and always ends it."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builders import process
from builders.errors import ToolError
from builders.serve.hosting import environment
from builders.serve.ports import HOST

_POLL_S: Final = 0.2
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognized, not bound
_GRACE_S: Final = 30.0  # TensorRT-LLM ends its ranks one after another


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiServer:
    """A server that has answered, and the models that it names."""

    url: str
    models: tuple[str, ...]
    log: Path
    child: subprocess.Popen[bytes] = field(repr=False)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.child.poll() is None

    def obituary(self) -> str:
        """Return why the server died and the last lines of its log; nothing while it lives."""
        if self.alive():
            return ""
        ended = f"the server ended with {self.child.returncode}; its log {self.log} ends:"
        return f"{ended}\n{process.tail(self.log)}"


@contextmanager
def openai_server(
    argv: Sequence[str], *, port: int, log: Path, host: str = HOST, deadline: float = 1800.0,
    env: Mapping[str, str] | None = None,
) -> Iterator[OpenAiServer]:  # fmt: skip
    """Run a command line that serves on ``port`` while the block runs; ``env`` None is our own.

    Enters when ``/health`` says 200, ``/v1/models`` names a model and it has written a token. One
    that cannot start, dies or takes more than ``deadline`` seconds is a `ToolError` with the end of
    its log.
    """
    child = process.start(argv, log=log, env=environment(os.environ if env is None else env))
    try:
        until = time.monotonic() + deadline
        reached = HOST if host in _EVERYWHERE else host
        _wait(child, argv[0], log, lambda: _ask(reached, port, "/health") is not None, until)
        models = _models(reached, port)
        if not models:
            raise _failed(f"{argv[0]} is healthy and names no model", log)
        if _ask(reached, port, "/v1/completions", _short(models[0]), until) is None:
            raise _failed(f"{argv[0]} is healthy and does not answer", log)
        url = f"http://{reached}:{port}/v1"
        yield OpenAiServer(url=url, models=models, log=log, child=child)
    finally:
        process.stop(child, grace=_GRACE_S)


def _wait(
    child: subprocess.Popen[bytes], program: str, log: Path, healthy: Callable[[], bool],
    until: float,
) -> None:  # fmt: skip
    begun = time.monotonic()
    while not healthy():
        if child.poll() is not None:
            raise _failed(f"{program} ended with {child.returncode} while starting", log)
        if time.monotonic() > until:
            raise _failed(f"{program} is not healthy within {until - begun:.0f} s", log)
        time.sleep(_POLL_S)


def _short(model: str) -> dict[str, object]:
    return {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}


def _models(host: str, port: int) -> tuple[str, ...]:
    try:
        said = json.loads(_ask(host, port, "/v1/models") or "{}")
        return tuple(str(model["id"]) for model in said["data"])
    except (ValueError, KeyError, TypeError):
        return ()


def _ask(
    host: str, port: int, path: str, body: Mapping[str, object] | None = None, until: float = 0.0
) -> str | None:
    """Return the body of a 200, None for anything else; an answer to a ``body`` may take long."""
    seconds = 10.0 if body is None else max(until - time.monotonic(), 1.0)
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    sent = None if body is None else json.dumps(body)
    headers = {"Connection": "close", "Content-Type": "application/json"}
    try:
        connection.request("GET" if body is None else "POST", path, sent, headers)
        response = connection.getresponse()
        said = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return said if response.status == 200 else None


def _failed(what: str, log: Path) -> ToolError:
    return ToolError(f"{what}:\n{process.tail(log)}", hint=f"the whole log: {log}")
