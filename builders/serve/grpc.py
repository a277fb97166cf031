"""Streams answers over gRPC.

Uses the messages and the stub that tritonclient ships, not its asyncio client: that one drops
``enable_empty_final_response`` without a word (2.73), so an answer could end without its end.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

from builders.errors import ToolError, UsageError
from builders.serve.chunk import StreamedChunk

_HINT: Final = "read the server's log"
# gRPC's poller still holds events of calls just ended; one that finds its loop closed is logged as
# an error by the next loop (about 1 in 100 loops without this wait, none in 480 with it).
_LINGER_S: Final = 0.01
_MAX_MESSAGE_BYTES: Final = 2**31 - 1
# Triton's binary tensor format: little-endian numbers, texts with their length in front.
_CODES: Final[Mapping[str, str]] = {"BOOL": "?", "INT32": "i", "UINT64": "Q", "FP32": "f"}
_INPUTS: Final[Mapping[str, str]] = {
    "text_input": "BYTES",
    "max_tokens": "INT32",
    "stream": "BOOL",
    "temperature": "FP32",
    "seed": "UINT64",
    "stop": "BYTES",
    "ignore_eos": "BOOL",
}


class TritonEndpoint:
    """A served model that streams answers; belongs to the event loop in which it was entered.

    ``obituary`` is asked for what to add to an error: why the server died, if it did. ``metronome``
    is the module that answers such a client on a schedule, ``like`` a client of it.
    """

    transport: Final = "gRPC"
    metronome: Final = "builders.serve.metronome"

    def __init__(
        self, grpc_url: str, model: str, *, obituary: Callable[[], str] = lambda: ""
    ) -> None:
        self._url = grpc_url
        self._model = model
        self._obituary = obituary

    def like(self, port: int) -> "TritonEndpoint":
        """Return a client of the same kind for the metronome at a port of this machine."""
        return TritonEndpoint(f"127.0.0.1:{port}", "metronome")

    async def __aenter__(self) -> Self:
        limits = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._channel = grpc.aio.insecure_channel(self._url, options=limits)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()
        await asyncio.sleep(_LINGER_S)

    async def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> AsyncIterator[StreamedChunk]:
        """Yield an answer piece by piece; leaving the loop early cancels the request.

        Every failure, of the request or of the server, is a `ToolError`. Waits as long as it
        takes: the caller sets a timeout.
        """
        values: dict[str, Sequence[object]] = {
            "text_input": [prompt],
            "max_tokens": [max_tokens],
            "stream": [True],
            "temperature": [temperature],
            "seed": [seed],
            "stop": stop,
            "ignore_eos": [ignore_eos],
        }
        async for chunk in self._ask(_request(self._model, values)):
            yield chunk

    async def _ask(self, request: Any) -> AsyncIterator[StreamedChunk]:  # noqa: ANN401
        answered = asyncio.Event()
        call = self._stub.ModelStreamInfer(_once(request, answered))
        whole, refused = False, ""
        try:
            async for message in call:
                response = message.infer_response
                columns = _columns(response)
                if columns:
                    whole = columns.get("finish_reason") != [""]
                    yield _chunk(columns)
                refused = message.error_message or refused
                if refused or response.parameters["triton_final_response"].bool_param:
                    # The server ends the stream now. To cancel it here makes Triton 2.51 keep the
                    # request for ever, once in some hundred, so that it cannot unload the model.
                    answered.set()
        except grpc.RpcError as error:
            raise self._failure(f"{error.code().name}: {error.details()}") from error
        finally:
            answered.set()
            call.cancel()
            await call.code()  # what gRPC leaves open would outlive the event loop
        if refused or not whole:
            raise self._failure(refused or "the answer ended before its last piece")

    def _failure(self, said: str) -> ToolError:
        added = self._obituary()
        more = f"\n{added}" if added else ""
        return ToolError(f"{self._model} at {self._url}: {said}{more}", hint=_HINT)


async def _once(request: Any, answered: asyncio.Event) -> AsyncIterator[Any]:  # noqa: ANN401
    yield request
    await answered.wait()


def _request(model: str, values: Mapping[str, Sequence[object]]) -> Any:  # noqa: ANN401
    request = service_pb2.ModelInferRequest(model_name=model)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, items in values.items():
        if items:
            request.inputs.add(name=name, datatype=_INPUTS[name], shape=[len(items)])
            request.raw_input_contents.append(_packed(name, items))
    return request


def _packed(name: str, items: Sequence[object]) -> bytes:
    datatype = _INPUTS[name]
    try:
        if datatype == "BYTES":
            raws = [str(item).encode() for item in items]
            return b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)
        return struct.pack(f"<{len(items)}{_CODES[datatype]}", *items)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"{name} {items[0]!r} cannot be sent as {datatype} ({error})") from error


def _columns(response: Any) -> dict[str, list[Any]]:  # noqa: ANN401 - protobuf's own class
    return {
        tensor.name: _unpacked(tensor.datatype, raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _unpacked(datatype: str, raw: bytes) -> list[Any]:
    if datatype in _CODES:
        return [value for (value,) in struct.iter_unpack(f"<{_CODES[datatype]}", raw)]
    texts, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts


def _chunk(columns: Mapping[str, list[Any]]) -> StreamedChunk:
    ids = tuple(columns.get("token_ids", ()))
    return StreamedChunk(
        text=columns["text_output"][0],
        tokens=columns["token_count"][0] if "token_count" in columns else len(ids),
        token_ids=ids,
        logprobs=tuple(columns.get("logprobs", ())),
        finish_reason=columns.get("finish_reason", [None])[0] or None,
    )
