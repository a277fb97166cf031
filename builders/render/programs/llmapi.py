"""TensorRT-LLM's LLM API behind Triton's Python backend: each request gets one final response.

The arguments lie beside this file in ``model.yaml``; a relative ``model`` is looked for beside it
too. A streamed response carries what is new in it. Inputs go by the names of NVIDIA's own model
(``sampling_param_max_tokens``) or by short ones (``max_tokens``). One process: the LLM API starts
the ranks of the other GPUs by itself.
"""

import asyncio
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
import yaml

FINAL: Final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_LOOK_EVERY_S: Final = 0.05  # to ask whether a client is gone costs a round trip to the server
_SENDERS: Final = 4
# Each of SamplingParams' fields by the input names that fill it.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "max_tokens": ("max_tokens", "sampling_param_max_tokens"),
    "temperature": ("temperature", "sampling_param_temperature"),
    "top_p": ("top_p", "sampling_param_top_p"),
    "top_k": ("top_k", "sampling_param_top_k"),
    "seed": ("seed", "sampling_param_seed"),
    "ignore_eos": ("ignore_eos",),
    "frequency_penalty": ("sampling_param_frequency_penalty",),
    "presence_penalty": ("sampling_param_presence_penalty",),
    "exclude_input_from_output": ("sampling_param_exclude_input_from_output",),
}
_STREAM: Final = ("stream", "streaming")
_STOP: Final = ("stop", "sampling_param_stop")
_TELL: Final = ("return_stop_reason", "return_cumulative_logprob")


class Malformed(Exception):
    """A request that cannot be answered, and why."""


class TritonPythonModel:
    """The class that Triton looks for in ``model.py``."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401 - Triton's own class
        """Leave the configuration alone: it says everything itself."""
        return config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load what ``model.yaml`` names."""
        config = json.loads(args["model_config"])
        home = Path(args["model_repository"], args["model_version"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
            raise pb_utils.TritonModelException(
                "started by mpirun: start one tritonserver, the LLM API starts its ranks itself"
            )
        arguments = read_arguments(home / "model.yaml", config)
        self._desk = Desk(arguments, max_tokens=int(parameters["max_tokens"]))

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests in; answers go out when the model has them."""
        for request in requests:
            self._desk.admit(request)

    def finalize(self) -> None:
        """Answer what is still open, and end the model."""
        self._desk.close()


def read_arguments(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the LLM API's arguments; ``triton_config`` must say what ``config.pbtxt`` says."""
    try:
        arguments: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        said = arguments.pop("triton_config")
        told = {"decoupled": bool(said["decoupled"]), "max_batch_size": int(said["max_batch_size"])}
        model = str(arguments["model"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise pb_utils.TritonModelException(f"{file}: cannot be used: {error!r}") from error
    policy = config.get("model_transaction_policy") or {}
    meant = {
        "decoupled": bool(policy.get("decoupled", False)),
        "max_batch_size": int(config.get("max_batch_size", 0)),
    }
    for key, value in told.items():
        if value != meant[key]:
            raise pb_utils.TritonModelException(
                f"{file}: {key} is {value} there and {meant[key]} in config.pbtxt"
            )
    if not meant["decoupled"] or meant["max_batch_size"]:
        raise pb_utils.TritonModelException("needs decoupled: true and max_batch_size: 0")
    beside = file.parent / model
    return arguments | {"model": str(beside) if beside.is_dir() else model}


class Desk:
    """Takes requests in, hands answers out, and drops those whose client has gone."""

    def __init__(self, arguments: Mapping[str, Any], *, max_tokens: int) -> None:
        from tensorrt_llm import LLM, SamplingParams  # noqa: PLC0415 - it opens the GPUs

        self._sampling = SamplingParams
        self._max_tokens = max_tokens
        self._open: set[asyncio.Task[None]] = set()
        self._senders = ThreadPoolExecutor(_SENDERS, "responses")
        self._llm = LLM(**arguments)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="answers", daemon=True)
        self._thread.start()

    def admit(self, request: Any) -> None:  # noqa: ANN401 - Triton's own class has no stubs
        """Queue a request."""
        asyncio.run_coroutine_threadsafe(self._admit(request), self._loop)

    def close(self) -> None:
        """End all answers, then the model."""
        asyncio.run_coroutine_threadsafe(self._abandon(), self._loop).result()
        self._llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._senders.shutdown()

    async def _admit(self, request: Any) -> None:  # noqa: ANN401
        task = asyncio.create_task(self._serve(request))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _abandon(self) -> None:
        open_ones = list(self._open)
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)

    async def _serve(self, request: Any) -> None:  # noqa: ANN401
        """Answer one request: whatever happens, its last response is final."""
        sender = request.get_response_sender()
        try:
            await self._answer(request, sender)
        except Malformed as error:
            await self._fail(sender, str(error), pb_utils.TritonError.INVALID_ARG)
        except asyncio.CancelledError:
            await self._fail(sender, "the server is ending", pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - a request without an answer hangs its client
            await self._fail(sender, f"{type(error).__name__}: {error}", _code(error))

    async def _answer(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        asked = Asked(request, self._max_tokens)
        result = self._llm.generate_async(
            asked.prompt, self._sampling(**asked.sampling), streaming=asked.stream
        )
        telling = asyncio.create_task(self._tell(result, sender, asked))
        try:
            while not telling.done():
                await asyncio.wait({telling}, timeout=_LOOK_EVERY_S)
                if not telling.done() and await self._off(sender.is_cancelled):
                    raise Gone
            await telling
        finally:
            if not telling.done():
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                result.abort()

    async def _tell(self, result: Any, sender: Any, asked: "Asked") -> None:  # noqa: ANN401
        answer = Growing(asked)
        finished = False
        async for output in result:
            finished = bool(output.finished)
            if asked.stream and not finished:
                response = answer.response(output.outputs[0], final=False)
                await self._off(partial(sender.send, response, flags=0))
            elif finished:
                response = answer.response(output.outputs[0], final=True)
                await self._off(partial(sender.send, response, flags=FINAL))
        if not finished:
            raise RuntimeError("the LLM API ended an answer before it was finished")

    async def _fail(self, sender: Any, what: str, code: Any) -> None:  # noqa: ANN401
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(what, code))
        try:
            await self._off(partial(sender.send, response, flags=FINAL))
        except Exception as error:  # noqa: BLE001 - the final response was out already
            pb_utils.Logger.log_warn(f"a response was not sent: {error}")

    async def _off(self, call: Any) -> Any:  # noqa: ANN401
        """Do what waits for the server outside of the loop, so that other answers go on."""
        return await self._loop.run_in_executor(self._senders, call)


class Gone(Exception):
    """The client does not wait for the answer any more."""

    def __str__(self) -> str:
        return "the request was cancelled"


def _code(error: Exception) -> Any:  # noqa: ANN401
    gone = isinstance(error, Gone)
    return pb_utils.TritonError.CANCELLED if gone else pb_utils.TritonError.INTERNAL


class Asked:
    """What a request asks for; a request that is malformed is refused."""

    def __init__(self, request: Any, max_tokens: int) -> None:  # noqa: ANN401
        _refuse_unknown(request)
        prompts = _texts(request, ("text_input",))
        if prompts is None or len(prompts) != 1:
            raise Malformed("text_input takes one prompt")
        self.prompt = prompts[0]
        self.stop = tuple(_texts(request, _STOP) or ())
        self.stream = bool(_one(request, _STREAM) or False)
        self.tell = frozenset(name for name in _TELL if _one(request, (name,)))
        self.sampling = self._fields(request, max_tokens)

    def _fields(self, request: Any, max_tokens: int) -> dict[str, Any]:  # noqa: ANN401
        read = {field: _one(request, names) for field, names in _FIELDS.items()}
        given = {field: value for field, value in read.items() if value is not None}
        given.setdefault("max_tokens", max_tokens)
        if given["max_tokens"] < 1:
            raise Malformed(f"max_tokens must be at least 1, not {given['max_tokens']}")
        if given.get("top_k") == 0:
            del given["top_k"]  # all tokens, which the LLM API says by saying nothing
        if given.get("temperature") == 0:
            given = {k: v for k, v in given.items() if k not in {"temperature", "top_p"}}
            given["top_k"] = 1
        return given | ({"stop": list(self.stop)} if self.stop else {})


class Growing:
    """An answer that grows: tells of it what was not told yet.

    The end of a text that may begin a stop string is held back until it is certain.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._told = 0
        self._tokens = 0

    def response(self, output: Any, *, final: bool) -> Any:  # noqa: ANN401
        """Return the next response; the last one has the rest and says why it is the last."""
        text, ids = output.text, list(output.token_ids)
        certain = len(text) if final else len(text) - _beginning(text, self._asked.stop)
        new, self._told = text[self._told : certain], max(certain, self._told)
        more, self._tokens = ids[self._tokens :], len(ids)
        columns = {
            "text_output": _bytes(new),
            "token_ids": np.array(more, dtype=np.int32),
            "token_count": np.array([len(more)], dtype=np.int32),
            "finish_reason": _bytes(str(output.finish_reason or "stop") if final else ""),
        }
        if "return_stop_reason" in self._asked.tell:
            columns["stop_reason"] = _bytes(
                "" if output.stop_reason is None else str(output.stop_reason)
            )
        if "return_cumulative_logprob" in self._asked.tell:
            value = output.cumulative_logprob
            columns["cumulative_logprob"] = np.array([value or 0.0], dtype=np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*column) for column in columns.items()])


def _bytes(text: str) -> Any:  # noqa: ANN401
    return np.array([text.encode()], dtype=np.object_)


def _beginning(text: str, stops: Sequence[str]) -> int:
    """Return how many last characters of a text begin a stop string."""
    longest = max(map(len, stops), default=0)
    return next(
        (
            n
            for n in range(min(longest, len(text)), 0, -1)
            if any(s.startswith(text[-n:]) for s in stops)
        ),
        0,
    )


def _refuse_unknown(request: Any) -> None:  # noqa: ANN401
    """Triton takes a name that it does not know for a parameter, without a word."""
    unknown = [
        key for key in json.loads(request.parameters() or "{}") if not key.startswith("triton_")
    ]
    if unknown:
        raise Malformed(f"{unknown[0]}: no such input")


def _values(request: Any, names: Sequence[str]) -> list[Any] | None:  # noqa: ANN401
    given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in names}
    said = {name: tensor for name, tensor in given.items() if tensor is not None}
    if len(said) > 1:
        raise Malformed(f"{' and '.join(said)} say the same: give one of them")
    return next((list(tensor.as_numpy().reshape(-1).tolist()) for tensor in said.values()), None)


def _one(request: Any, names: Sequence[str]) -> Any:  # noqa: ANN401
    values = _values(request, names)
    if values is None:
        return None
    if len(values) != 1:
        raise Malformed(f"{names[0]} takes one value, not {len(values)}")
    return values[0]


def _texts(request: Any, names: Sequence[str]) -> list[str] | None:  # noqa: ANN401
    values = _values(request, names)
    try:
        return None if values is None else [raw.decode() for raw in values]
    except UnicodeDecodeError as error:
        raise Malformed(f"{names[0]} is not valid UTF-8 ({error.reason})") from error
