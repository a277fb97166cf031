"""Score with TensorRT-LLM itself, in a program of its own: both lanes, by their context logits.

What is scored is the engine that is served, with three arguments changed that would leave logits
out: blocks of the KV cache are not reused, prompts are not cut into chunks, and a whole row fits
into one step. Not run against TensorRT-LLM itself; `docs/gates.md` says what was.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from builders import process, spoken
from builders.engine.description import Description
from builders.engine.sources import CHECKPOINT
from builders.engine.trtllm import score_worker
from builders.engine.trtllm.compiled import TOKENIZER
from builders.engine.trtllm.effective import Effective
from builders.engine.trtllm.llm_args import LANE as LLM_API
from builders.engine.trtllm.llmapi import CONFIG
from builders.engine.trtllm.sidecar import COMPILED
from builders.errors import EvidenceError, PlanError, Refusal, ToolError
from builders.home import Home
from builders.progress import Progress, silent
from builders.scorer import Places, PlainChoices, PlainScores, check_rows, sound
from builders.texts import Texts

WORKER: Final = Path(score_worker.__file__)
BYTES: Final = 1 << 30  # of logits that are held at once
# What would leave logits of a prompt out.
_NO_REUSE: Final = {"kv_cache_config": {"enable_block_reuse": False}}
_WHOLE: Final = {"enable_chunked_prefill": False}


class TrtllmScorer:
    """An engine opened in another process; it ends when the scorer is closed."""

    def __init__(self, engine: Path, *, python: str = sys.executable) -> None:
        """Load the engine; one that was built without context logits is a `PlanError`."""
        said = Description.read(engine)
        job = _job(engine, said.runtime)
        self._texts = Texts.read(Path(str(job["tokenizer"])))
        # TensorRT-LLM keeps room for a token of its own.
        self.context = said.settings.context - 1
        self.vocabulary, self.prefix = self._texts.vocabulary, self._texts.prefix
        log = Home.find(Path.cwd(), os.environ).runs / "score-trtllm.log"
        log.unlink(missing_ok=True)
        argv = (python, "-P", "-u", str(WORKER))
        self._stack = ExitStack()
        self._worker = self._stack.enter_context(process.dialogue(argv, log=log))
        try:
            asked = {**job, "vocabulary": self.vocabulary, "bytes": BYTES}
            self.version = str(self._asked(asked, silent).get("version"))
        except BaseException:
            self.close()
            raise

    def tokenize(self, text: str) -> list[int]:
        """Cut a text into tokens, with the special tokens that the tokenizer itself adds."""
        return self._texts.encode(text)

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> list[PlainScores]:
        """Score each row; its first token is given, so a row of n tokens has n - 1 scores."""
        found = self._rows(rows, 0, progress)
        return [
            PlainScores.of(_sound(number, one["logprobs"]), one["greedy"])
            for number, one in enumerate(found)
        ]

    def distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> list[PlainChoices]:
        """Return the ``top`` likeliest tokens at each place of each row from the second on."""
        return [
            PlainChoices(Places(one["tokens"]), Places(one["others"]))
            for one in self._rows(rows, top, progress)
        ]

    def close(self) -> None:
        """End the worker, and with it the engine."""
        self._stack.close()

    def _rows(
        self, rows: Sequence[Sequence[int]], top: int, progress: Progress
    ) -> list[Mapping[str, Any]]:
        check_rows(rows, context=self.context, vocabulary=self.vocabulary)
        told = self._asked({"rows": [list(row) for row in rows], "top": top}, progress)
        found = told.get("rows")
        if not isinstance(found, list) or len(found) != len(rows):
            raise ToolError(
                "the worker did not answer for every row", hint=f"the log: {self._worker.log}"
            )
        for number, (row, one) in enumerate(zip(rows, found, strict=True)):
            if any(len(one[name]) != len(row) - 1 for name in ("logprobs", "greedy")):
                raise EvidenceError(
                    f"row {number}: {len(one['logprobs'])} scores for {len(row)} tokens",
                    hint="every token after the first has one",
                )
        return found

    def _asked(self, job: Mapping[str, object], progress: Progress) -> Mapping[str, object]:
        self._worker.say(json.dumps(job))
        while True:
            told = spoken.heard(self._worker.hear(), self._worker.log, progress)
            if told is not None:
                return told


def open_scorer(engine: Path) -> TrtllmScorer:
    """Open the engine in ``engine`` for scoring, on the machine that it is for."""
    return TrtllmScorer(engine)


def _job(engine: Path, lane: str) -> dict[str, object]:
    if lane == COMPILED:
        _refuse_blind(engine)
        return {
            "lane": lane,
            "model": str(engine),
            "tokenizer": str(engine / TOKENIZER),
            "config": "",
            "arguments": _NO_REUSE,
        }
    assert lane == LLM_API
    return {
        "lane": lane,
        "model": str(engine / CHECKPOINT),
        "tokenizer": str(engine / CHECKPOINT),
        "config": str(engine / CONFIG),
        "arguments": {**_NO_REUSE, **_WHOLE},
    }


def _refuse_blind(engine: Path) -> None:
    """Refuse a compiled engine that was not built to return what it computes for a prompt."""
    if Effective.read(engine).build.get("gather_context_logits") is not True:
        raise PlanError(
            (
                Refusal(
                    f"{engine} was built without context logits, so it tells no "
                    "log-probabilities of given tokens",
                    "build it with trtllm-build --gather_context_logits, or judge perplexity and "
                    "accuracy in the llmapi lane",
                ),
            )
        )


def _sound(number: int, values: Sequence[float]) -> list[float]:
    return [sound(f"row {number}, token {at}", value) for at, value in enumerate(values, start=1)]
