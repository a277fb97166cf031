"""Streams answers over gRPC, with tritonclient."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from builders.errors import ToolError
from builders.serve.chunk import StreamedChunk

_HINT: Final = "read the server's log"
_TYPES: Final[Mapping[str, tuple[str, Any]]] = {
    "text_input": ("BYTES", np.object_),
    "max_tokens": ("INT32", np.int32),
    "stream": ("BOOL", np.bool_),
    "temperature": ("FP32", np.float32),
    "seed": ("UINT64", np.uint64),
    "stop": ("BYTES", np.object_),
    "ignore_eos": ("BOOL", np.bool_),
}


class TritonEndpoint:
    """A served model that streams answers; belongs to the event loop in which it was entered.

    ``obituary`` is asked for what to add to an error: why the server died, if it did.
    """

    def __init__(
        self, grpc_url: str, model: str, *, obituary: Callable[[], str] = lambda: ""
    ) -> None:
        self._url = grpc_url
        self._model = model
        self._obituary = obituary

    async def __aenter__(self) -> Self:
        self._client = InferenceServerClient(self._url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

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

        Every failure, of the request or of the server, is a `ToolError`.
        """
        values: dict[str, list[object]] = {
            "text_input": [prompt.encode()],
            "max_tokens": [max_tokens],
            "stream": [True],
            "temperature": [temperature],
            "seed": [seed],
            "stop": [text.encode() for text in stop],
            "ignore_eos": [ignore_eos],
        }
        async for chunk in self._ask([_tensor(name, v) for name, v in values.items() if v]):
            yield chunk

    async def _ask(self, inputs: list[InferInput]) -> AsyncIterator[StreamedChunk]:
        request = {
            "model_name": self._model,
            "inputs": inputs,
            "enable_empty_final_response": True,
        }
        answered = asyncio.Event()
        call = self._client.stream_infer(_once(request, answered))
        try:
            async for result, error in call:
                if error is not None:
                    raise self._failure(error.message())
                if result.as_numpy("text_output") is not None:
                    yield _chunk(result)
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return
            raise self._failure("the answer ended before its last piece")
        except (InferenceServerException, grpc.RpcError) as error:
            raise self._failure(_said(error)) from error
        finally:
            answered.set()
            call.cancel()

    def _failure(self, said: str) -> ToolError:
        added = self._obituary()
        more = f"\n{added}" if added else ""
        return ToolError(f"{self._model} at {self._url}: {said}{more}", hint=_HINT)


async def _once(
    request: Mapping[str, object], answered: asyncio.Event
) -> AsyncIterator[Mapping[str, object]]:
    yield request
    await answered.wait()


def _tensor(name: str, values: Sequence[object]) -> InferInput:
    datatype, kind = _TYPES[name]
    tensor = InferInput(name, [len(values)], datatype)
    tensor.set_data_from_numpy(np.array(values, dtype=kind))
    return tensor


def _chunk(result: Any) -> StreamedChunk:  # noqa: ANN401 - tritonclient has no stubs
    ids = result.as_numpy("token_ids")
    return StreamedChunk(
        text=result.as_numpy("text_output")[0].decode(),
        tokens=int(result.as_numpy("token_count")[0]),
        token_ids=() if ids is None else tuple(ids.tolist()),
        finish_reason=result.as_numpy("finish_reason")[0].decode() or None,
    )


def _said(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
