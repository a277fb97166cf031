"""One real generation each way: streamed over gRPC, and whole over HTTP."""

import asyncio
from typing import Final

from builders.errors import ToolError
from builders.serve import http
from builders.serve.grpc import TritonEndpoint
from builders.serve.launch import TritonServer

_TIMEOUT_S: Final = 120.0


def smoke(server: TritonServer, prompt: str = "Hello", tokens: int = 4) -> str:
    """Return what the model answers over HTTP; an empty answer of either way is a `ToolError`."""
    streamed = asyncio.run(_stream(server, prompt, tokens))
    whole = http.generate(
        server.http_url,
        server.model,
        prompt,
        timeout=_TIMEOUT_S,
        max_tokens=tokens,
        ignore_eos=True,
    )
    for way, count in (("gRPC", streamed), ("HTTP", whole.tokens)):
        if not count:
            raise ToolError(
                f"{server.model} answered {prompt!r} over {way} without a token",
                hint=f"the server's log: {server.log}",
            )
    return whole.text


async def _stream(server: TritonServer, prompt: str, tokens: int) -> int:
    try:
        async with (
            asyncio.timeout(_TIMEOUT_S),
            TritonEndpoint(server.grpc_url, server.model, obituary=server.obituary) as endpoint,
        ):
            answer = endpoint.stream(prompt, max_tokens=tokens, ignore_eos=True)
            return sum([chunk.tokens async for chunk in answer])
    except TimeoutError:
        raise ToolError(
            f"{server.model} did not answer within {_TIMEOUT_S:g} s",
            hint=f"the server's log: {server.log}",
        ) from None
