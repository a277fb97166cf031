"""Asks a served model over HTTP: Triton's ``/generate`` and ``/generate_stream``."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

from builders.errors import ToolError, UsageError
from builders.parse import nearest
from builders.serve.chunk import StreamedChunk

_HINT: Final = "read the server's log"
_EVENT: Final = b"data:"


def ready(url: str, *, timeout: float = 2.0) -> bool:
    """Whether the server says that it and all its models are ready."""
    try:
        with _asked(url, "GET", "/v2/health/ready", timeout=timeout) as response:
            return response.status == 200
    except ToolError:
        return False


def version(url: str, *, timeout: float = 10.0) -> str:
    """Return the server's version."""
    with _asked(url, "GET", "/v2", timeout=timeout) as response:
        return str(_object(url, response)["version"])


def inputs(url: str, model: str, *, timeout: float = 10.0) -> tuple[str, ...]:
    """Return the names of a model's inputs."""
    with _asked(url, "GET", _path(model), timeout=timeout) as response:
        tensors = _object(model, response)["inputs"]
    return tuple(str(tensor["name"]) for tensor in tensors)


def generate(
    url: str, model: str, prompt: str, *, timeout: float = 60.0, **values: object
) -> StreamedChunk:
    """Return the whole answer to a prompt; ``values`` are the model's other inputs, by name.

    Triton takes a name that it does not know without a word, so names are checked here. It answers
    some failures with status 200 and an ``error``: a `ToolError`, like every other.
    """
    body = _body(url, model, {"text_input": prompt, **values}, timeout)
    with _asked(url, "POST", f"{_path(model)}/generate", body, timeout=timeout) as response:
        return _chunk(_object(model, response))


def generate_stream(
    url: str, model: str, prompt: str, *, timeout: float = 60.0, **values: object
) -> Iterator[StreamedChunk]:
    """Yield an answer piece by piece as it comes; closing the iterator cancels the request."""
    body = _body(url, model, {"text_input": prompt, "stream": True, **values}, timeout)
    with _asked(url, "POST", f"{_path(model)}/generate_stream", body, timeout=timeout) as response:
        if response.status != 200:
            raise _failure(model, response.status, response.read().removeprefix(_EVENT))
        whole = False
        for line in response:
            if line.startswith(_EVENT):
                found = _parsed(model, response.status, line.removeprefix(_EVENT))
                whole = found.get("finish_reason") != ""  # a model without this output never says
                yield _chunk(found)
    if not whole:
        raise ToolError(f"{model}: the answer ended before its last piece", hint=_HINT)


def _body(url: str, model: str, values: Mapping[str, object], timeout: float) -> bytes:
    known = inputs(url, model, timeout=timeout)
    for name in values:
        if name not in known:
            raise UsageError(f"{model} has no input {name}", hint=nearest(name, known))
    try:
        return json.dumps(values, allow_nan=False).encode()
    except ValueError as error:
        raise UsageError(f"{model}: an input cannot be sent as JSON: {error}") from error


@contextmanager
def _asked(
    url: str, method: str, path: str, body: bytes | None = None, *, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """Send one request on a connection of its own: an idle one would delay the server's end."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Connection": "close"})
        yield connection.getresponse()
    except TimeoutError as error:
        raise ToolError(f"{url}{path}: no answer within {timeout:g} s", hint=_HINT) from error
    except (OSError, http.client.HTTPException) as error:
        said = str(error) or type(error).__name__
        raise ToolError(f"{url}{path}: {said}", hint=_HINT) from error
    finally:
        connection.close()


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _object(what: str, response: http.client.HTTPResponse) -> dict[str, Any]:
    raw = response.read()
    if response.status != 200:
        raise _failure(what, response.status, raw)
    return _parsed(what, response.status, raw)


def _parsed(what: str, status: int, raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "error" in found:
        raise _failure(what, status, raw)
    return found


def _failure(what: str, status: int, raw: bytes) -> ToolError:
    try:
        said = str(json.loads(raw)["error"])
    except (ValueError, KeyError, TypeError):
        said = f"status {status}, {raw[:200].decode(errors='replace')!r}"
    return ToolError(f"{what}: {said}", hint=_HINT)


def _chunk(found: Mapping[str, Any]) -> StreamedChunk:
    if "text_output" not in found:
        raise ToolError(f"the answer has no text_output, only {', '.join(sorted(found))}")
    ids, logprobs = (_listed(found.get(name, [])) for name in ("token_ids", "logprobs"))
    return StreamedChunk(
        text=str(found["text_output"]),
        tokens=int(found.get("token_count", len(ids))),
        token_ids=ids,
        logprobs=logprobs,
        finish_reason=found.get("finish_reason") or None,
    )


def _listed(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - numbers
    """Return a list that Triton wrote; a list of one it writes as its only member."""
    return tuple(value) if isinstance(value, list) else (value,)
