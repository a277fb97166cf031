"""A server that answers over gRPC on an exact schedule, to find out how exact a client is.

``python -m builders.serve.metronome TTFT_S ITL_S`` serves Triton's streaming inference on a free
port of 127.0.0.1, which is its first line of output. Token i of a request is due at arrival + TTFT
+ i * ITL, so that errors do not add up; after each request a line says how late its latest token
left. Messages are made beforehand and only sent in time.
"""

import asyncio
import selectors
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

SERVICE: Final = "inference.GRPCInferenceService"
METHOD: Final = "ModelStreamInfer"
_USUAL: Final = 16  # tokens, where a request does not say


class Metronome:
    """Answers each request in time."""

    def __init__(self, ttft: float, itl: float) -> None:
        self._ttft, self._itl = ttft, itl

    async def infer(self, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        """Answer what comes on one stream, one request after the other."""
        loop = asyncio.get_running_loop()
        async for raw in requests:
            due, late = loop.time() + self._ttft, 0.0
            for message in _messages(_asked(raw)):
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                late = max(late, loop.time() - due)
                await context.write(message)
                due += self._itl
            sys.stdout.write(f"{late:.6f}\n")
            sys.stdout.flush()


def _asked(raw: bytes) -> int:
    """Return how many tokens a request asks for."""
    request = service_pb2.ModelInferRequest.FromString(raw)
    for tensor, value in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == "max_tokens":
            return int(struct.unpack("<i", value)[0])
    return _USUAL


@lru_cache
def _messages(count: int) -> Sequence[bytes]:
    """Return an answer's messages, a token each, the last with its reason; made once."""
    return [_message("length" if place == count - 1 else "") for place in range(count)]


def _message(reason: str) -> bytes:
    message = service_pb2.ModelStreamInferResponse()
    response = message.infer_response
    for name, datatype, raw in (
        ("text_output", "BYTES", _text(" a")),
        ("token_count", "INT32", struct.pack("<i", 1)),
        ("finish_reason", "BYTES", _text(reason)),
    ):
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(raw)
    response.parameters["triton_final_response"].bool_param = bool(reason)
    return bytes(message.SerializeToString())


def _text(said: str) -> bytes:
    return struct.pack("<I", len(said)) + said.encode()


async def _serve(ttft: float, itl: float) -> None:
    # Bytes come in and go out as they are: gRPC itself turns nothing into messages.
    answered = grpc.stream_stream_rpc_method_handler(Metronome(ttft, itl).infer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: answered}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def _precise() -> asyncio.SelectorEventLoop:
    """Return a loop whose timers are not rounded up to a millisecond, as epoll's are."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise) as runner:
        runner.run(_serve(float(sys.argv[1]), float(sys.argv[2])))
