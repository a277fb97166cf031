"""Score with TensorRT-LLM's LLM API; runs in a Python that has it, where builders need not be.

Reads JSON from stdin, one object a line. The first opens a model: ``lane`` (llmapi, tensorrt),
``model``, ``tokenizer``, ``config`` (a YAML of LLM arguments, or none), ``arguments`` that win over
it, ``vocabulary`` and ``bytes`` (of logits held at once). Each other has ``rows`` of tokens and
``top``. Answers on stdout, one object a line; what libraries print goes to stderr.

Log-probabilities are taken from context logits, the one form that both backends have had since
version 1.0: a row of n tokens must have n of them, or something was left out.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Job = dict[str, Any]
Say = Callable[[str, object], None]
STRIDE = 256  # places whose log-probabilities are computed at once


class Failure(Exception):
    """Something to tell the user in one line."""

    def __init__(self, what: str, *, hint: str = "", kind: str = "tool") -> None:
        super().__init__(what)
        self.hint, self.kind = hint, kind


def main() -> None:
    """Open the model, then answer until nobody asks."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # from here on whoever prints prints into the log

    def say(kind: str, value: object) -> None:
        answers.write(json.dumps({kind: value}) + "\n")

    model: Model | None = None
    try:
        for line in sys.stdin:
            job = json.loads(line)
            if model is None:
                model = Model(job)
                say("result", {"version": model.version})
            else:
                say("result", {"rows": model.rows(job, say)})
    except Failure as failure:
        say("error", {"what": str(failure), "hint": failure.hint, "kind": failure.kind})
    finally:
        if model is not None:
            model.close()


class Model:
    """A loaded model of either lane."""

    def __init__(self, job: Job) -> None:
        with told("TensorRT-LLM cannot be imported"):
            import tensorrt_llm

            owner = tensorrt_llm
            if job["lane"] == "tensorrt":
                owner = importlib.import_module("tensorrt_llm._tensorrt_engine")
        self.version = str(tensorrt_llm.__version__)
        self.vocabulary, self.bytes = int(job["vocabulary"]), int(job["bytes"])
        with told(f"TensorRT-LLM could not load {job['model']}"):
            self.llm = owner.LLM(model=job["model"], tokenizer=job["tokenizer"], **arguments(job))
            self.params = tensorrt_llm.SamplingParams(
                max_tokens=1,
                return_context_logits=True,
                detokenize=False,
                add_special_tokens=False,
                ignore_eos=True,
            )

    def rows(self, job: Job, say: Say) -> list[Job]:
        """Score rows in batches whose logits fit the memory that they may take."""
        found: list[Job] = []
        done, total = 0, sum(map(len, job["rows"]))
        for batch in batches(job["rows"], max(1, self.bytes // (4 * self.vocabulary))):
            say("progress", progress(done, total))
            done += sum(map(len, batch))
            with told("TensorRT-LLM could not compute"):
                prompts = [{"prompt_token_ids": list(row)} for row in batch]
                outputs = self.llm.generate(prompts, self.params, use_tqdm=False)
            if len(outputs) != len(batch):
                raise Failure(f"{len(outputs)} answers came for {len(batch)} rows", kind="evidence")
            for row, output in zip(batch, outputs, strict=True):
                found.append(self.row(len(found), row, output, int(job["top"])))
        say("progress", progress(total, total))
        return found

    def row(self, number: int, row: Sequence[int], output: Any, top: int) -> Job:  # noqa: ANN401
        """Return the log-probabilities of a row's tokens from the second on."""
        read = getattr(output, "prompt_token_ids", None)
        if read is not None and list(read) != list(row):
            raise Failure(f"row {number}: it read other tokens than were sent", kind="evidence")
        logits = output.context_logits
        if logits is None:
            raise Failure(
                f"row {number}: the engine returns no context logits",
                hint="build it with trtllm-build --gather_context_logits",
                kind="evidence",
            )
        if logits.shape[0] != len(row):
            raise Failure(
                f"row {number}: {logits.shape[0]} logits came for {len(row)} tokens",
                hint="kv_cache_config.enable_block_reuse must be off, and no prompt cut",
                kind="evidence",
            )
        if logits.shape[-1] < self.vocabulary:
            raise Failure(
                f"row {number}: {logits.shape[-1]} logits a place for a vocabulary of"
                f" {self.vocabulary}",
                hint="config.json and the engine are not of one model",
                kind="evidence",
            )
        return self.computed(logits[:-1, : self.vocabulary], row[1:], top)

    @staticmethod
    def computed(logits: Any, targets: Sequence[int], top: int) -> Job:  # noqa: ANN401 - a tensor
        """Turn logits into log-probabilities in float32, some places at a time."""
        found: Job = {"logprobs": [], "greedy": [], "tokens": [], "others": []}
        for begin in range(0, len(targets), STRIDE):
            part = logits[begin : begin + STRIDE].float()
            sums = part.logsumexp(-1)
            wanted = part.new_tensor(targets[begin : begin + STRIDE]).long().unsqueeze(-1)
            chosen = part.gather(-1, wanted).squeeze(-1)
            found["logprobs"] += (chosen - sums).tolist()
            found["greedy"] += (chosen >= part.amax(-1)).tolist()
            if top:
                values, tokens = part.topk(top, dim=-1)
                found["tokens"] += tokens.tolist()
                found["others"] += (values - sums.unsqueeze(-1)).tolist()
        return found

    def close(self) -> None:
        """End the engine's processes."""
        self.llm.shutdown()


def arguments(job: Job) -> Job:
    """Return the LLM's arguments: those of the file, then what scoring needs otherwise."""
    found: Job = {}
    if job["config"]:
        import yaml  # type: ignore[import-untyped, unused-ignore] # noqa: PLC0415

        with open(job["config"], encoding="utf-8") as file:  # noqa: PTH123 - nothing more to import
            found = yaml.safe_load(file)
    for key, value in job["arguments"].items():
        own = found.get(key)
        found[key] = (
            {**own, **value} if isinstance(own, dict) and isinstance(value, dict) else value
        )
    longest = max(found.get("max_num_tokens") or 0, found.get("max_seq_len") or 0)
    return found | ({"max_num_tokens": longest} if longest and job["lane"] == "llmapi" else {})


def batches(rows: Sequence[Sequence[int]], most: int) -> Iterator[list[Sequence[int]]]:
    """Cut rows, in order, into batches of at most so many tokens, each of one row at least."""
    batch: list[Sequence[int]] = []
    for row in rows:
        if batch and sum(map(len, batch)) + len(row) > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def progress(done: int, total: int) -> Job:
    """Say how many tokens are scored."""
    return {"what": "score", "done": done, "total": total, "unit": "tokens"}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell a failure of the library in one line; its own story goes to the log."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failure(f"{what}: {first}") from error


if __name__ == "__main__":
    main()
