"""Continuous batching: one thread, one decode step for all running requests, joined at any time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from builders.engine.embedded.cache import Slots
from builders.engine.embedded.loader import Loaded
from builders.engine.embedded.sampling import Chooser
from builders.engine.embedded.text import GrowingText, StopStrings
from builders.engine.embedded.types import Chunk, Sampling
from builders.errors import ToolError

Sink = Callable[[Chunk], None]
_STOPPED: Final = "the engine was closed"
_SPOILED: Final = "the model computed logits that are not numbers"
_FULL: Final = "the device has no memory left for this request: shorten it, or send fewer at once"


class Ticket:
    """A caller's hold on a request that waits or runs."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._ended = threading.Event()

    def cancel(self) -> None:
        """End the request soon; its last chunk says ``cancelled``, if it has not ended before."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the end."""
        return self._cancelled.is_set()

    def end(self) -> None:
        """Note that the last chunk was given out."""
        self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the last chunk; return whether it has been given out."""
        return self._ended.wait(timeout)


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One answer in the making."""

    prompt: Sequence[int]
    sampling: Sampling
    sink: Sink
    ticket: Ticket
    ends: frozenset[int]
    text: GrowingText
    chooser: Chooser
    stops: StopStrings
    made: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def position(self) -> int:
        """Where the newest token stands in the sequence."""
        return len(self.prompt) + len(self.made) - 1

    def take(self, token: int, logprob: float) -> None:
        """Give out the newest token, and end the answer if it is the last."""
        if token in self.ends and not self.sampling.ignore_eos:
            self.finish("stop")
            return
        self.made.append(token)
        text = self.stops.pass_on(self.text.add(token))
        chunk = Chunk(text=text, token_ids=(token,), logprobs=(logprob,))
        if self.stops.found():
            self._end(replace(chunk, finish_reason="stop"))
        elif len(self.made) == self.sampling.max_tokens:
            text += self._rest()
            reason = "stop" if self.stops.found() else "length"
            self._end(replace(chunk, text=text, finish_reason=reason))
        else:
            self._give(chunk)

    def finish(self, reason: str) -> None:
        """End the answer without another token."""
        self._end(Chunk(text=self._rest(), finish_reason=reason))

    def fail(self, why: str) -> None:
        """End the answer with an error; text that is held back stays so."""
        self._end(Chunk(text="", finish_reason="error", error=why))

    def _rest(self) -> str:
        text = self.stops.pass_on(self.text.rest())
        return text if self.stops.found() else text + self.stops.rest()

    def _end(self, chunk: Chunk) -> None:
        self.finished = True
        self._give(chunk)
        self.ticket.end()

    def _give(self, chunk: Chunk) -> None:
        try:
            self.sink(chunk)
        except Exception:  # noqa: BLE001 - a caller's bug must not end its neighbours' answers
            self.ticket.cancel()


class Batcher:
    """Runs requests, at most ``concurrency`` at once; the others wait in the order they came."""

    def __init__(self, loaded: Loaded, *, context: int, concurrency: int) -> None:
        """Start the thread that computes."""
        self._loaded, self._device = loaded, loaded.device
        self._concurrency = concurrency
        self._cache = Slots(loaded.kv_scales, slots=concurrency, context=context)
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._closed = False
        self._broken = ""
        self._thread = threading.Thread(target=self._work, name="enginesmith-decode", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request."""
        with self._changed:
            if self._closed or self._broken:
                raise ToolError(self._broken or _STOPPED, hint="load the engine again")
            self._waiting.append(request)
            self._changed.notify()

    @property
    def broken(self) -> str:
        """Why no request is taken any more; nothing while all is well."""
        return self._broken

    def close(self) -> None:
        """Cancel what runs and waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._drop_cancelled()
                    self._admit()
                    self._step()
        except Exception as error:  # noqa: BLE001 - or its callers would wait for ever
            self._fail(f"the engine failed while it computed: {error}")
        for request in self._left():
            request.finish("cancelled")

    def _await_work(self) -> bool:
        with self._changed:
            while not (self._closed or self._waiting or self._running):
                self._loaded.memory.forget()
                self._changed.wait()
            return not self._closed

    def _fail(self, why: str) -> None:
        with self._changed:
            self._broken = why
        for request in self._left():
            request.fail(why)

    def _left(self) -> list[Request]:
        """Take away all requests, and return those that have not ended."""
        with self._changed:
            left = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting.clear()
        return [request for request in left if not request.finished]

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = [request for request in self._waiting if request.ticket.cancelled]
            for request in gone:
                self._waiting.remove(request)
        for request in (*gone, *(r for r in self._running if r.ticket.cancelled)):
            request.finish("cancelled")
        self._compact()

    def _admit(self) -> None:
        """Read the prompts of as many waiting requests as there are free rows."""
        while len(self._running) < self._concurrency:
            with self._changed:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
                self._running.append(request)
            if request.ticket.cancelled:
                request.finish("cancelled")
                self._compact()
                continue
            self._spare(partial(self._read, request), request)
            self._compact()

    def _read(self, request: Request) -> None:
        """Read the prompt of the newest request."""
        self._cache.begin(len(self._running) - 1)
        tokens = torch.tensor([list(request.prompt)], device=self._device)
        places = torch.arange(tokens.shape[1], device=self._device).unsqueeze(0)
        self._choose(self._loaded.logits(tokens, places, self._cache, last=True), [request])

    def _step(self) -> None:
        """Make one token for every running request; never again for as many as memory refused."""
        if self._running and self._spare(self._advance, self._running[-1]):
            self._concurrency = max(1, len(self._running) - 1)
        self._compact()

    def _advance(self) -> None:
        newest = [[request.made[-1]] for request in self._running]
        places = self._cache.advance([request.position for request in self._running], self._device)
        tokens = torch.tensor(newest, device=self._device)
        self._choose(
            self._loaded.logits(tokens, places, self._cache, last=True), list(self._running)
        )

    def _spare(self, work: Callable[[], None], request: Request) -> bool:
        """Work; where memory ends, fail this request so that the others go on, and say so.

        Tokens are given out after all else, so a pass that found no memory can be made again.
        """
        full = False
        try:
            work()
        except torch.OutOfMemoryError:
            full = True
        if full:  # not before: until here the traceback holds the tensors of the pass
            self._loaded.memory.forget()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            request.fail(_FULL)
        return full

    def _choose(self, logits: Tensor, requests: Sequence[Request]) -> None:
        """Give each request its token; one whose logits are not numbers ends alone."""
        logits = logits[:, -1]
        total = logits.logsumexp(-1)
        sound = total.isfinite().tolist()
        best = logits.argmax(-1).tolist()
        rows = None if all(request.chooser.greedy for request in requests) else logits.cpu()
        tokens = [
            best[i]
            if rows is None or request.chooser.greedy or not sound[i]
            else request.chooser.choose(rows[i])
            for i, request in enumerate(requests)
        ]
        chosen = logits.gather(-1, torch.tensor(tokens, device=self._device).unsqueeze(-1))
        logprobs = (chosen.squeeze(-1) - total).tolist()
        for i, request in enumerate(requests):
            if sound[i]:
                request.take(tokens[i], logprobs[i])
            else:
                self._cache.clear(self._running.index(request))
                request.fail(_SPOILED)

    def _compact(self) -> None:
        """Fill the rows of ended requests from the end, so that rows 0 to n - 1 are in use."""
        row = 0
        while row < len(self._running):
            if not self._running[row].finished:
                row += 1
                continue
            last = len(self._running) - 1
            self._cache.move(last, row)
            self._running[row] = self._running[last]
            self._running.pop()
