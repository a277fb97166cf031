"""Stream answers from a server that speaks OpenAI's API: vLLM, trtllm-serve, and their like.

Tokens are counted by the server, never by pieces: an engine may send several in one. Each piece is
stamped when its bytes came.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from types import TracebackType
from typing import Any, Final, Self

from builders.errors import ToolError
from builders.gate.wire.http import Client, Response

_HINT: Final = "read the server's log"
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer, and when its bytes came on `perf_counter`'s clock.

    ``total``, where the server counts only at the end, is to be spread over all pieces.
    ``prompt_tokens`` is how long the server found the prompt.
    """

    text: str
    tokens: int
    at: float
    finish_reason: str | None = None
    total: int | None = None
    prompt_tokens: int | None = None


def _nobody() -> str:
    return ""


@dataclass(slots=True, kw_only=True)
class OpenAiEndpoint:
    """A served model; ``chat`` asks it as a user in a chat, with the server's own template.

    ``obituary`` says why the server died, where anybody knows.
    """

    url: str
    model: str
    chat: bool = False
    key: str = ""
    obituary: Callable[[], str] = _nobody
    _client: Client | None = field(default=None, init=False)

    @property
    def transport(self) -> str:
        """How it talks."""
        return "HTTP"

    @property
    def metronome(self) -> str:
        """The module that answers such a client on a schedule."""
        return "builders.gate.speed.metronome"

    def like(self, port: int) -> Self:
        """Return a client of the same kind for the metronome at a port of this machine."""
        return replace(self, url=f"http://127.0.0.1:{port}/v1", model="metronome", key="")

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._client = Client(url=self.url, headers=headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    async def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str],
        ignore_eos: bool,
    ) -> AsyncIterator[Piece]:
        """Yield an answer piece by piece; every failure of the server is a `ToolError`."""
        body: dict[str, object] = {
            "model": self.model,
            **self._asked(prompt),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if stop:
            body["stop"] = list(stop)
        if ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": max_tokens}
        answer = Reading(who=f"{self.model} at {self.url}")
        try:
            async with self._opened().post(self._path, json.dumps(body).encode()) as response:
                async for stamp, data in _events(response, answer.who):
                    yield answer.take(stamp, data)
        except ToolError as error:
            if story := self.obituary():
                raise ToolError(f"{error}\n{story}", hint=error.hint) from error
            raise
        answer.end()

    async def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> "Said":
        """Return a whole answer to a chat, greedy, and which model says that it wrote it."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": 0,
        }
        who = f"{self.model} at {self.url}"
        async with self._opened().post("/chat/completions", json.dumps(body).encode()) as response:
            found = _parsed(who, response.status, await response.read())
        try:
            text = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise _failure(who, response.status, json.dumps(found).encode()) from None
        model, print_ = found.get("model", ""), found.get("system_fingerprint") or ""
        return Said(text=str(text or ""), model=f"{model} {print_}".strip())

    @property
    def _path(self) -> str:
        return "/chat/completions" if self.chat else "/completions"

    def _asked(self, prompt: str) -> dict[str, object]:
        if self.chat:
            return {"messages": [{"role": "user", "content": prompt}]}
        return {"prompt": prompt}

    def _opened(self) -> Client:
        if self._client is None:
            raise ToolError(f"{self.url}: used before it was opened")
        return self._client


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A whole answer, and the name and fingerprint of the model that gave it."""

    text: str
    model: str


@dataclass(slots=True, kw_only=True)
class Reading:
    """What is known of an answer so far."""

    who: str
    tokens: int = 0
    finish: str = ""
    counted: bool = True
    total: int | None = None

    def take(self, stamp: float, data: bytes) -> Piece:
        """Turn one event into a piece of the answer, perhaps an empty one."""
        event = _parsed(self.who, 200, data)
        usage, choices = event.get("usage") or {}, event.get("choices") or [{}]
        text, has_text = _text(choices[0])
        self.finish = choices[0].get("finish_reason") or self.finish
        tokens = self._count(usage, choices[0].get("token_ids"), has_text=has_text)
        return Piece(
            text=text,
            tokens=tokens,
            at=stamp,
            finish_reason=choices[0].get("finish_reason"),
            total=None if self.counted else self.total,
            prompt_tokens=_whole(usage.get("prompt_tokens")),
        )

    def _count(self, usage: Mapping[str, Any], ids: object, *, has_text: bool) -> int:
        """Return how many tokens came: as the server counts, else one a piece for the while."""
        whole = _whole(usage.get("completion_tokens"))
        self.total = self.total if whole is None else whole
        if isinstance(ids, list):
            found = len(ids)
        elif whole is not None and self.counted:
            found = max(whole - self.tokens, 0)
        else:
            found = int(has_text)
            self.counted = self.counted and not has_text
        self.tokens += found
        return found

    def end(self) -> None:
        """Refuse an answer without an end, or of which nobody says how long it is."""
        if not self.finish:
            raise ToolError(f"{self.who}: the answer ended before its last piece", hint=_HINT)
        if not self.counted and self.total is None:
            raise ToolError(
                f"{self.who}: the server does not say how many tokens it wrote",
                hint="it must honour stream_options.include_usage",
            )


async def _events(response: Response, who: str) -> AsyncIterator[tuple[float, bytes]]:
    """Yield the data of each server-sent event but the closing one."""
    if response.status != 200:
        raise _failure(who, response.status, await response.read())
    if "text/event-stream" not in response.headers.get("content-type", ""):
        _parsed(who, response.status, await response.read())
        raise ToolError(f"{who}: the answer is not a stream", hint="does the server stream?")
    unread = b""
    async for stamp, data in response.pieces():
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (said := line[5:].strip()) != _DONE:
                yield stamp, said
    if unread.strip() not in {b"", b"data: " + _DONE}:
        raise ToolError(f"{who}: the answer ended within a line", hint=_HINT)


def _text(choice: Mapping[str, Any]) -> tuple[str, bool]:
    """Return what belongs to the answer, and whether the piece has any text: reasoning counts."""
    delta = choice.get("delta") or {}
    text = choice.get("text") or delta.get("content") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return str(text), bool(text or thought)


def _parsed(who: str, status: int, raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("error") or found.get("object") == "error":
        raise _failure(who, status, raw)
    if status != 200:
        raise _failure(who, status, raw)
    return found


def _failure(who: str, status: int, raw: bytes) -> ToolError:
    try:
        found = json.loads(raw)
        error = found.get("error") or found
        said = str(error.get("message") if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        said = f"{raw[:200].decode(errors='replace')!r}"
    return ToolError(f"{who}: status {status}: {said[:500]}", hint=_HINT)


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return int(value)
