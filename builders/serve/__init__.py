"""Serve a model repository on a real Triton, at loopback. This door is light: gRPC loads when used.

Knows nothing of how a repository came to be, nor of what is asked of it.
"""

import importlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Protocol, cast

from builders.errors import ToolError
from builders.serve.chunk import StreamedChunk
from builders.serve.hosting import Hosting
from builders.serve.launch import TritonServer, tritonserver
from builders.serve.triton import TritonRuntime

__all__ = [
    "Endpoint",
    "Hosting",
    "StreamedChunk",
    "TritonRuntime",
    "TritonServer",
    "connect",
    "endpoint",
    "preflight",
    "smoke_test",
    "tritonserver",
]


class Endpoint(Protocol):
    """A served model that streams answers."""

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> AsyncIterator[StreamedChunk]:
        """Yield an answer piece by piece; leaving the loop early cancels the request."""


def preflight() -> None:
    """Raise a `ToolError` for the first thing that keeps a Triton from running here."""
    TritonRuntime.locate().preflight()
    _load("grpc")


def endpoint(
    server: TritonServer, model: str = ""
) -> Callable[[], AbstractAsyncContextManager[Endpoint]]:
    """Return what opens a streaming client of a server, inside the event loop that will use it."""
    made = _load("grpc").TritonEndpoint
    name = model or server.model
    return lambda: cast(
        "AbstractAsyncContextManager[Endpoint]",
        made(server.grpc_url, name, obituary=server.obituary),
    )


def connect(grpc_url: str, model: str) -> Callable[[], AbstractAsyncContextManager[Endpoint]]:
    """Return what opens a streaming client of a server that somebody else runs."""
    made = _load("grpc").TritonEndpoint
    return lambda: cast("AbstractAsyncContextManager[Endpoint]", made(grpc_url, model))


def smoke_test(server: TritonServer, prompt: str = "Hello", tokens: int = 4) -> str:
    """Ask for one short answer over gRPC and over HTTP, and return it."""
    return cast("str", _load("smoke").smoke(server, prompt, tokens))


def _load(name: str) -> ModuleType:
    # Read when gRPC is loaded. Its fork handlers crash a child of `process.start` between fork and
    # exec, 25 of 146 times while a channel was open (grpcio 1.85); we never fork without exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        return importlib.import_module(f"builders.serve.{name}")
    except ImportError as error:
        raise ToolError(
            f"Triton's client cannot be loaded: {error}",
            hint="pip install 'enginesmith[triton]', then enginesmith doctor",
        ) from error
