"""A compiled engine as one model that takes text and streams text, one final response a request.

Calls preprocessing, the engine and postprocessing; a character that is spread over tokens waits
for its end, and so does what may begin a stop string.
"""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

FINAL: Final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_LOOK_EVERY_S: Final = 0.05  # to ask whether a client is gone costs a round trip to the server
_INCOMPLETE: Final = "\ufffd"  # what an unfinished UTF-8 sequence decodes to
_TOKENS: Final = (
    "INPUT_ID",
    "REQUEST_INPUT_LEN",
    "STOP_WORDS_IDS",
    "BAD_WORDS_IDS",
    "OUT_END_ID",
    "OUT_PAD_ID",
)
# The engine's inputs that a request may set, by the request's names, with their types.
_SAMPLING: Final[Mapping[str, tuple[str, Any]]] = {
    "temperature": ("temperature", np.float32),
    "top_k": ("runtime_top_k", np.int32),
    "top_p": ("runtime_top_p", np.float32),
    "seed": ("seed", np.uint64),
    "repetition_penalty": ("repetition_penalty", np.float32),
    "presence_penalty": ("presence_penalty", np.float32),
    "frequency_penalty": ("frequency_penalty", np.float32),
    "length_penalty": ("len_penalty", np.float32),
    "min_tokens": ("min_tokens", np.int32),
}


class Malformed(Exception):
    """A request that cannot be answered, and why."""


class TritonPythonModel:
    """The class that Triton looks for in ``model.py``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read which models to call."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._engine = parameters["tensorrt_llm_model_name"]
        self._max_tokens = int(parameters["max_tokens"])

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer request after request; as many at once as there are instances of this model."""
        for request in requests:
            self._serve(request)

    def _serve(self, request: Any) -> None:  # noqa: ANN401 - Triton's own class has no stubs
        sender = request.get_response_sender()
        try:
            self._answer(request, sender)
        except Malformed as error:
            _fail(sender, str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - a request without an answer hangs its client
            _fail(sender, f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _answer(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        asked = Asked(request, self._max_tokens)
        text = Growing(self._decode, asked.stop)
        responses = _stream(self._engine, self._inputs(asked))
        looked = time.monotonic()
        for tokens in responses:
            new = text.add(tokens)
            if asked.stream:
                sender.send(_response(new, tokens, ""))
            if text.ended:
                break
            if time.monotonic() - looked > _LOOK_EVERY_S:
                looked = time.monotonic()
                if sender.is_cancelled():
                    responses.close()
                    _fail(sender, "the request was cancelled", pb_utils.TritonError.CANCELLED)
                    return
        responses.close()
        rest = text.rest()
        cut = len(text.tokens) >= asked.max_tokens and not text.ended
        last = (rest, []) if asked.stream else (text.text, text.tokens)
        sender.send(_response(*last, "length" if cut else "stop"), flags=FINAL)

    def _inputs(self, asked: "Asked") -> dict[str, Any]:
        query = {
            "QUERY": _texts_of([asked.prompt]),
            "REQUEST_OUTPUT_LEN": np.array([[asked.max_tokens]], dtype=np.int32),
        }
        if asked.stop:
            query["STOP_WORDS_DICT"] = _texts_of(asked.stop)
        if asked.bad:
            query["BAD_WORDS_DICT"] = _texts_of(asked.bad)
        made = _call("preprocessing", query, _TOKENS)
        end = np.array([[-1]], dtype=np.int32) if asked.ignore_eos else made["OUT_END_ID"]
        return {
            "input_ids": made["INPUT_ID"],
            "input_lengths": made["REQUEST_INPUT_LEN"],
            "request_output_len": query["REQUEST_OUTPUT_LEN"],
            "stop_words_list": made["STOP_WORDS_IDS"],
            "bad_words_list": made["BAD_WORDS_IDS"],
            "end_id": end,
            "pad_id": made["OUT_PAD_ID"],
            "streaming": np.array([[asked.stream or bool(asked.stop)]], dtype=np.bool_),
            "exclude_input_in_output": np.array([[True]], dtype=np.bool_),
            **asked.sampling,
        }

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of some sequences, with one call."""
        table = np.zeros((1, len(rows), max(map(len, rows))), dtype=np.int32)
        for row, tokens in zip(table[0], rows, strict=True):
            row[: len(tokens)] = tokens
        lengths = np.array([[len(tokens) for tokens in rows]], dtype=np.int32)
        given = {"TOKENS_BATCH": table, "SEQUENCE_LENGTH": lengths}
        output = _call("postprocessing", given, ("OUTPUT",))["OUTPUT"]
        return [raw.decode() for raw in output.reshape(-1)]


class Asked:
    """What a request asks for; a request that is malformed is refused."""

    def __init__(self, request: Any, max_tokens: int) -> None:  # noqa: ANN401
        _refuse_unknown(request)
        prompts = _texts(request, "text_input")
        if prompts is None or len(prompts) != 1:
            raise Malformed("text_input takes one prompt")
        self.prompt = prompts[0]
        self.stop = tuple(_texts(request, "stop") or _texts(request, "stop_words") or ())
        self.bad = tuple(_texts(request, "bad_words") or ())
        self.max_tokens = int(_one(request, "max_tokens", max_tokens))
        if self.max_tokens < 1:
            raise Malformed(f"max_tokens must be at least 1, not {self.max_tokens}")
        self.stream = bool(_one(request, "stream", False))  # noqa: FBT003 - a value, not a switch
        self.ignore_eos = bool(_one(request, "ignore_eos", False))  # noqa: FBT003
        self.sampling = _sampling(request)


def _sampling(request: Any) -> dict[str, Any]:  # noqa: ANN401
    read = {name: _one(request, name, None) for name in _SAMPLING}
    given = {name: value for name, value in read.items() if value is not None}
    if given.get("temperature") == 0:  # the engine has no such temperature: take the likeliest
        given = {k: v for k, v in given.items() if k not in {"temperature", "top_p"}} | {"top_k": 1}
    return {
        _SAMPLING[name][0]: np.array([[value]], dtype=_SAMPLING[name][1])
        for name, value in given.items()
    }


class Growing:
    """The text of an answer whose tokens come piece by piece; its pieces add up to the whole.

    A token's text can depend on its neighbours, so each step decodes a short tail twice, with and
    without what is new.
    """

    def __init__(self, decode: Any, stop: Sequence[str]) -> None:  # noqa: ANN401
        self.tokens: list[int] = []
        self.text = ""
        self.ended = False
        self._decode = decode
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._tail = 0  # where the tail that gives context begins
        self._read = 0  # tokens whose text is known
        self._told = 0  # characters returned

    def add(self, tokens: Sequence[int]) -> str:
        """Take tokens, return the text that is certain now."""
        self.tokens += tokens
        self._grow(final=False)
        return self._tell(final=False)

    def rest(self) -> str:
        """Return what was still held back, when no more tokens come."""
        self._grow(final=True)
        return self._tell(final=True)

    def _grow(self, *, final: bool) -> None:
        if self.ended or self._read == len(self.tokens):
            return
        tail = self.tokens[self._tail :]
        before, now = self._decode([tail[: self._read - self._tail], tail])
        if not final and (now.endswith(_INCOMPLETE) or len(now) <= len(before)):
            return
        self._tail, self._read = self._read, len(self.tokens)
        self.text += now[len(before) :]

    def _tell(self, *, final: bool) -> str:
        begin = max(0, self._told - self._longest)
        ends = [at for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if ends:
            self.ended, self.text = True, self.text[: min(ends)]
        whole = final or self.ended
        certain = len(self.text) - (0 if whole else _beginning(self.text, self._stop))
        new, self._told = self.text[self._told : certain], max(self._told, certain)
        return new


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


def _stream(model: str, inputs: Mapping[str, Any]) -> Generator[list[int], None, None]:
    """Yield the new tokens of each response; closing the iterator ends the request."""
    wanted = ["output_ids", "sequence_length"]
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=wanted,
        inputs=[pb_utils.Tensor(*pair) for pair in inputs.items()],
    )
    responses = request.exec(decoupled=True)
    try:
        for response in responses:
            _refuse_error(model, response)
            tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
            if tensors:
                count = int(tensors["sequence_length"].reshape(-1)[0])
                yield tensors["output_ids"].reshape(-1)[:count].tolist()
    finally:
        cancel = getattr(responses, "cancel", None)  # since Triton 24.12
        if cancel is not None:
            cancel()


def _call(model: str, inputs: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    tensors = [pb_utils.Tensor(*pair) for pair in inputs.items()]
    request = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=list(wanted), inputs=tensors
    )
    response = request.exec()
    _refuse_error(model, response)
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _refuse_error(model: str, response: Any) -> None:  # noqa: ANN401
    if response.has_error():
        raise RuntimeError(f"{model}: {response.error().message()}")


def _response(text: str, tokens: Sequence[int], reason: str) -> Any:  # noqa: ANN401
    columns = {
        "text_output": np.array([text.encode()], dtype=np.object_),
        "token_ids": np.array(tokens, dtype=np.int32),
        "token_count": np.array([len(tokens)], dtype=np.int32),
        "finish_reason": np.array([reason.encode()], dtype=np.object_),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(*column) for column in columns.items()])


def _fail(sender: Any, what: str, code: Any) -> None:  # noqa: ANN401
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(what, code))
    try:
        sender.send(response, flags=FINAL)
    except Exception as error:  # noqa: BLE001 - the final response was out already
        pb_utils.Logger.log_warn(f"a response was not sent: {error}")


def _texts_of(texts: Sequence[str]) -> Any:  # noqa: ANN401
    return np.array([[text.encode() for text in texts]], dtype=np.object_)


def _refuse_unknown(request: Any) -> None:  # noqa: ANN401
    """Triton takes a name that it does not know for a parameter, without a word."""
    unknown = [
        key for key in json.loads(request.parameters() or "{}") if not key.startswith("triton_")
    ]
    if unknown:
        raise Malformed(f"{unknown[0]}: no such input")


def _values(request: Any, name: str) -> list[Any] | None:  # noqa: ANN401
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else list(tensor.as_numpy().reshape(-1).tolist())


def _one(request: Any, name: str, usual: Any) -> Any:  # noqa: ANN401
    values = _values(request, name)
    if values is None:
        return usual
    if len(values) != 1:
        raise Malformed(f"{name} takes one value, not {len(values)}")
    return values[0]


def _texts(request: Any, name: str) -> list[str] | None:  # noqa: ANN401
    values = _values(request, name)
    try:
        return None if values is None else [raw.decode() for raw in values]
    except UnicodeDecodeError as error:
        raise Malformed(f"{name} is not valid UTF-8 ({error.reason})") from error
