"""The embedded runtime's door: load an engine, score tokens, answer prompts."""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch

from builders.engine.description import Description
from builders.engine.embedded import score as scoring
from builders.engine.embedded.generate import Batcher, Request, Sink, Ticket
from builders.engine.embedded.loader import Loaded, load
from builders.engine.embedded.sampling import Chooser
from builders.engine.embedded.score import Choices, TokenScores
from builders.engine.embedded.text import GrowingText, StopStrings, Tokenizer
from builders.engine.embedded.types import Chunk, Sampling
from builders.engine.sources import CHECKPOINT
from builders.errors import ToolError, UsageError
from builders.progress import Progress, silent
from builders.scorer import check_rows

DEFAULT: Final = Sampling()


class Embedded:
    """A loaded engine. Scoring and generating may go on at once, from any thread."""

    def __init__(
        self,
        loaded: Loaded,
        tokenizer: Tokenizer,
        description: Description,
        *,
        ends: frozenset[int],
    ) -> None:
        """Wrap what `load` read; the thread that generates starts with the first request."""
        self._lock = threading.Lock()
        self._closed = False
        self._loaded, self._tokenizer = loaded, tokenizer
        self._batcher: Batcher | None = None
        self.concurrency = description.settings.concurrency
        self.context = description.settings.context
        self.vocabulary = loaded.vocabulary
        self.bos = tokenizer.bos
        self.eos = ends

    @classmethod
    def load(cls, engine: Path, *, device: str | None = None, threads: int | None = None) -> Self:
        """Load an engine onto a device: ``cpu``, ``cuda``, or None for what is there."""
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type == "cuda":
            # cuDNN plans anew for every length, 50 ms a step in a growing sequence (H200)
            torch.backends.cuda.enable_cudnn_sdp(enabled=False)
        description = Description.read(engine)
        checkpoint = engine / CHECKPOINT
        tokenizer = Tokenizer(checkpoint)
        loaded = load(checkpoint, description.settings, chosen)
        ends = _ends(checkpoint, loaded, tokenizer)
        return cls(loaded, tokenizer, description, ends=ends)

    @property
    def prefix(self) -> int:
        """The token that stands before a text: beginning of sequence, else end of sequence."""
        return self.bos if self.bos is not None else min(self.eos, default=0)

    @property
    def broken(self) -> str:
        """Why no prompt is answered until it is loaded again; nothing while all is well."""
        batcher = self._batcher  # without the lock, which closing holds for long
        return batcher.broken if batcher is not None else ""

    def tokenize(self, text: str) -> list[int]:
        """Cut a text into tokens, with the special tokens that the tokenizer itself adds."""
        return self._tokenizer.encode(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens have none."""
        return self._tokenizer.decode(tokens)

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> list[TokenScores]:
        """Score each row; its first token is given, so a row of n tokens has n - 1 scores."""
        check_rows(rows, context=self.context, vocabulary=self.vocabulary)
        return scoring.score(self._loaded, rows, progress=progress)

    def score_ends(
        self,
        rows: Sequence[Sequence[int]],
        wanted: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> list[TokenScores]:
        """Score at least so many of each row's last tokens: less work where the rest is context."""
        check_rows(rows, context=self.context, vocabulary=self.vocabulary)
        return scoring.score(self._loaded, rows, wanted=wanted, progress=progress)

    def distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> list[Choices]:
        """Return the ``top`` likeliest tokens at each place of each row from the second on."""
        check_rows(rows, context=self.context, vocabulary=self.vocabulary)
        return scoring.distributions(self._loaded, rows, top, progress=progress)

    def submit(self, prompt: str | Sequence[int], sampling: Sampling, sink: Sink) -> Ticket:
        """Queue a prompt; ``sink`` gets its chunks, in order, on the thread that computes."""
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        self._check_prompt(tokens, sampling)
        ticket = Ticket()
        request = Request(
            prompt=tokens,
            sampling=sampling,
            sink=sink,
            ticket=ticket,
            ends=self.eos,
            text=GrowingText(self._tokenizer),
            chooser=Chooser(sampling),
            stops=StopStrings(sampling.stop),
        )
        self._running().submit(request)
        return ticket

    def generate(
        self, prompt: str | Sequence[int], sampling: Sampling = DEFAULT
    ) -> Iterator[Chunk]:
        """Yield an answer's chunks; leaving the loop early cancels it."""
        chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        ticket = self.submit(prompt, sampling, chunks.put)
        try:
            while True:
                chunk = chunks.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            ticket.cancel()

    def close(self) -> None:
        """Cancel all requests and end the thread that generates."""
        with self._lock:
            if self._batcher is not None:
                self._batcher.close()
            self._closed = True

    def _running(self) -> Batcher:
        with self._lock:
            if self._closed:
                raise ToolError("the engine was closed", hint="load it again")
            if self._batcher is None:
                self._batcher = Batcher(
                    self._loaded,
                    context=self.context,
                    concurrency=self.concurrency,
                )
            return self._batcher

    def _check_prompt(self, tokens: Sequence[int], sampling: Sampling) -> None:
        if not tokens:
            raise UsageError("the prompt has no tokens", hint="send at least one character")
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise UsageError(f"the prompt has a token outside the vocabulary of {self.vocabulary}")
        room = self.context - len(tokens)
        if sampling.max_tokens > room:
            raise UsageError(
                f"{len(tokens)} prompt tokens and max_tokens {sampling.max_tokens} exceed the "
                f"context of {self.context}",
                hint="shorten the prompt or lower max_tokens",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_scorer(engine: Path) -> Embedded:
    """Load the engine in ``engine`` for scoring."""
    return Embedded.load(engine)


def _ends(checkpoint: Path, loaded: Loaded, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end an answer: generation_config.json's, else the model's own."""
    said = _generation(checkpoint).get("eos_token_id", getattr(loaded.config, "eos_token_id", None))
    if said is None:
        said = tokenizer.eos
    if said is None:
        return frozenset()
    return frozenset(map(int, said)) if isinstance(said, list) else frozenset({int(said)})


def _generation(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: not valid JSON ({error})") from error
    return said if isinstance(said, dict) else {}
