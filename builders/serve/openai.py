"""Starts a server that speaks the OpenAI protocol, such as trtllm-serve, and always ends it."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builders import process
from builders.errors import ToolError
from builders.serve.hosting import environment
from builders.serve.ports import HOST

_POLL_S: Final = 0.2
_GRACE_S: Final = 30.0  # TensorRT-LLM ends its ranks one after another


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiServer:
    """A server that said that it is healthy, and the models that it names."""

    url: str
    models: tuple[str, ...]
    log: Path
    child: subprocess.Popen[bytes] = field(repr=False)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.child.poll() is None


@contextmanager
def openai_server(
    argv: Sequence[str], *, port: int, log: Path, host: str = HOST, deadline: float = 1800.0
) -> Iterator[OpenAiServer]:
    """Run a command line that serves on ``port`` while the block runs.

    Enters when ``/health`` says 200 and ``/v1/models`` names a model. One that cannot start, dies
    or takes more than ``deadline`` seconds is a `ToolError` with the end of its log.
    """
    child = process.start(argv, log=log, env=environment(os.environ))
    try:
        until = time.monotonic() + deadline
        while _ask(host, port, "/health") is None:
            if child.poll() is not None:
                raise _failed(f"{argv[0]} ended with {child.returncode} while starting", log)
            if time.monotonic() > until:
                raise _failed(f"{argv[0]} is not healthy within {deadline:g} s", log)
            time.sleep(_POLL_S)
        models = _models(host, port)
        if not models:
            raise _failed(f"{argv[0]} is healthy and names no model", log)
        yield OpenAiServer(url=f"http://{host}:{port}/v1", models=models, log=log, child=child)
    finally:
        process.stop(child, grace=_GRACE_S)


def _models(host: str, port: int) -> tuple[str, ...]:
    try:
        said = json.loads(_ask(host, port, "/v1/models") or "{}")
        return tuple(str(model["id"]) for model in said["data"])
    except (ValueError, KeyError, TypeError):
        return ()


def _ask(host: str, port: int, path: str) -> str | None:
    """Return the body of a 200, None for anything else."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


def _failed(what: str, log: Path) -> ToolError:
    return ToolError(f"{what}:\n{process.tail(log)}", hint=f"the whole log: {log}")
