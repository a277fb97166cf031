"""Triton's Python backend over the embedded runtime. Every request gets exactly one final response.

Runs in Triton's own process of Python, where ``triton_python_backend_utils`` exists. Triton checks
the type of an input but neither that a required one is there nor any value, and hands over unknown
JSON keys as request parameters, so all of that is checked here.
"""

import contextlib
import json
import locale
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

with contextlib.suppress(locale.Error):
    # Triton's interpreter keeps the C locale whatever LANG says, and files would be read as ASCII.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")

from builders.engine.embedded.model import Embedded
from builders.engine.embedded.types import Chunk, Sampling
from builders.errors import BuildersError, UsageError
from builders.parse import nearest

# Asking whether a client is gone costs a round trip to the server (20 to 270 µs): not per token.
_LOOK_EVERY_S: Final = 0.05
_NUMBERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "seed": int,
    "ignore_eos": bool,
}
_INPUTS: Final = ("text_input", "stream", "stop", *_NUMBERS)


class Ticket(Protocol):
    """A request that the model works on."""

    def cancel(self) -> None:
        """End it; its last chunk says ``cancelled``."""


class Model(Protocol):
    """What this module asks of the runtime."""

    @property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""

    def tokenize(self, text: str) -> list[int]:
        """Cut a text into tokens."""

    @property
    def broken(self) -> str:
        """Why no request is answered any more; nothing while all is well."""

    def submit(self, prompt: str, sampling: Sampling, sink: Callable[[Chunk], None]) -> Ticket:
        """Queue a request; ``sink`` hears each piece of the answer from the model's thread."""

    def close(self) -> None:
        """End all work."""


class TritonPythonModel:
    """The class that Triton looks for in ``model.py``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the engine that lies beside ``model.py``."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        engine = Path(args["model_repository"], args["model_version"], parameters["engine"])
        gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if gpu else "cpu"
        try:
            model = Embedded.load(engine, device=device)
        except BuildersError as error:
            raise pb_utils.TritonModelException(_sentence(error)) from error
        self._desk = Desk(model, max_tokens=int(parameters["max_tokens"]))

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests in; answers go out when the model has them."""
        for request in requests:
            self._desk.admit(request)

    def is_ready(self) -> bool:
        """Tell Triton's health endpoints whether requests are answered; asked from 26.03 on."""
        return self._desk.ready

    def finalize(self) -> None:
        """Answer what is still open, and close the model."""
        self._desk.close()


class Desk:
    """Takes requests in, hands answers out, and drops requests whose client has gone."""

    def __init__(self, model: Model, *, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._open: set[Reply] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._watcher = threading.Thread(target=self._watch, name="cancellations", daemon=True)
        self._watcher.start()

    @property
    def ready(self) -> bool:
        """Whether the model still answers."""
        return not self._model.broken

    def admit(self, request: Any) -> None:  # noqa: ANN401 - Triton's own class has no stubs
        """Queue a request, or answer at once what is wrong with it."""
        reply = Reply(request.get_response_sender(), closed=self._forget)
        with self._changed:
            self._open.add(reply)
            self._changed.notify()
        try:
            prompt, given, reply.stream = _read(request)
            if "max_tokens" not in given:
                given["max_tokens"] = self._room(prompt)
            reply.ticket = self._model.submit(prompt, Sampling(**given), reply.take)
        except UsageError as error:
            reply.fail(_sentence(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - a request without an answer hangs its client
            reply.fail(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def close(self) -> None:
        """Close the model, then fail whatever it left unanswered."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._watcher.join()
        self._model.close()
        with self._changed:
            left = list(self._open)
        for reply in left:
            reply.fail("the server is shutting down", pb_utils.TritonError.UNAVAILABLE)

    def _room(self, prompt: str) -> int:
        """Return the tokens of an answer that asks for no number: the usual, if they fit."""
        room = self._model.context - len(self._model.tokenize(prompt))
        return max(1, min(self._max_tokens, room))

    def _forget(self, reply: "Reply") -> None:
        with self._changed:
            self._open.discard(reply)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._closing)
                if self._changed.wait_for(lambda: self._closing, timeout=_LOOK_EVERY_S):
                    return
                looked_at = list(self._open)
            for reply in looked_at:
                reply.cancel_if_abandoned()


class Reply:
    """One request's way back: chunks come in, responses go out, one of them is final."""

    def __init__(self, sender: Any, *, closed: Callable[["Reply"], None]) -> None:  # noqa: ANN401
        self.ticket: Ticket | None = None
        self.stream = False
        self._sender = sender
        self._closed = closed
        self._held: list[Chunk] = []
        self._lock = threading.Lock()
        self._done = False
        self._torn = False

    def take(self, chunk: Chunk) -> None:
        """Send a piece on, or hold it until the answer is whole; never raises."""
        if chunk.finish_reason == "cancelled":
            self.fail("the request was cancelled", pb_utils.TritonError.CANCELLED)
        elif chunk.finish_reason == "error":
            self.fail(chunk.error, pb_utils.TritonError.INTERNAL)
        elif self.stream:
            self._send(chunk)
        else:
            self._held.append(chunk)
            if chunk.finish_reason is not None:
                self._send(_joined(self._held))

    def fail(self, what: str, code: int) -> None:
        """Answer with an error, unless the final response is out already."""
        error = pb_utils.TritonError(what, code)
        self._respond(pb_utils.InferenceResponse(error=error), final=True)

    def cancel_if_abandoned(self) -> None:
        """Tell the model to stop when nobody waits for the answer, or a piece of it was lost."""
        with self._lock:
            abandoned = not self._done and (self._torn or self._sender.is_cancelled())
        if abandoned and self.ticket is not None:
            self.ticket.cancel()

    def _send(self, chunk: Chunk) -> None:
        self._respond(_response(chunk), final=chunk.finish_reason is not None)

    def _respond(self, response: Any, *, final: bool) -> None:  # noqa: ANN401 - Triton's own class
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        with self._lock:
            if self._done:
                return
            self._done = final
            try:
                self._sender.send(response, flags=flags)
            except Exception as error:  # noqa: BLE001 - must not end the model's thread
                pb_utils.Logger.log_warn(f"a response was not sent: {error}")
                self._torn = True
        if final:
            self._closed(self)


def _sentence(error: BuildersError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def _read(request: Any) -> tuple[str, dict[str, Any], bool]:  # noqa: ANN401
    """Return prompt, what is said of sampling, and whether to stream; refuse what is malformed."""
    _refuse_unknown(request)
    prompts = _texts(request, "text_input")
    if prompts is None:
        raise UsageError("text_input is missing")
    given: dict[str, Any] = {"stop": tuple(_texts(request, "stop") or ())}
    for name, kind in _NUMBERS.items():
        values = _values(request, name)
        if values is not None:
            given[name] = kind(_one(name, values))
    stream = _values(request, "stream")
    streamed = stream is not None and bool(_one("stream", stream))
    return _one("text_input", prompts), given, streamed


def _refuse_unknown(request: Any) -> None:  # noqa: ANN401
    parameters = json.loads(request.parameters() or "{}")
    unknown = [name for name in parameters if not name.startswith("triton_")]
    if unknown:
        raise UsageError(f"{unknown[0]}: no such input", hint=nearest(unknown[0], _INPUTS))


def _values(request: Any, name: str) -> list[Any] | None:  # noqa: ANN401
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _one(name: str, values: Sequence[Any]) -> Any:  # noqa: ANN401
    if len(values) != 1:
        raise UsageError(f"{name} takes one value, not {len(values)}")
    return values[0]


def _texts(request: Any, name: str) -> list[str] | None:  # noqa: ANN401
    values = _values(request, name)
    try:
        return None if values is None else [raw.decode() for raw in values]
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not valid UTF-8 ({error.reason})") from error


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        logprobs=tuple(value for chunk in chunks for value in chunk.logprobs),
        finish_reason=chunks[-1].finish_reason,
    )


def _response(chunk: Chunk) -> Any:  # noqa: ANN401
    columns = {
        "text_output": np.array([chunk.text.encode()], dtype=np.object_),
        "token_ids": np.array(chunk.token_ids, dtype=np.int32),
        "logprobs": np.array(chunk.logprobs, dtype=np.float32),
        "token_count": np.array([len(chunk.token_ids)], dtype=np.int32),
        "finish_reason": np.array([(chunk.finish_reason or "").encode()], dtype=np.object_),
    }
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, column) for name, column in columns.items()]
    )
