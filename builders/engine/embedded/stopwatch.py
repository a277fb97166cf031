"""Time the embedded runtime token by token, by the same decode loop that serves."""

import random
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import torch

from builders.engine.embedded.model import Embedded
from builders.engine.embedded.types import Chunk, Sampling
from builders.engine.timing import Lap, Timed, Work
from builders.errors import ToolError, UsageError
from builders.progress import Progress


def time(engine: Path, work: Work, device: str | None, progress: Progress) -> Timed:
    """Load the engine and answer random prompts one by one; the warm-up is thrown away."""
    chosen = _device(device)
    with Embedded.load(engine, device=str(chosen)) as model:
        _check(model, work)
        dice = random.Random(work.seed)  # noqa: S311 - load, not secrets
        laps: list[Lap] = []
        for number in range(work.warm_up + work.repeats):
            prompt = [dice.randrange(model.vocabulary) for _ in range(work.prompt_tokens)]
            laps.append(_lap(model, prompt, work.output_tokens, chosen))
            progress("time", number + 1, work.warm_up + work.repeats, unit="requests")
    return Timed(
        device=torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        laps=tuple(laps[work.warm_up :]),
    )


def _device(name: str | None) -> torch.device:
    try:
        chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}: {error}", hint="cpu, cuda or cuda:1") from error
    if chosen.type not in {"cpu", "cuda"}:
        raise UsageError(f"the embedded runtime does not run on {name}", hint="cpu, cuda or cuda:1")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ToolError(f"this machine has no device {name}", hint="enginesmith doctor")
    return chosen


def _check(model: Embedded, work: Work) -> None:
    if work.prompt_tokens + work.output_tokens > model.context:
        raise UsageError(
            f"{work.prompt_tokens} prompt and {work.output_tokens} output tokens exceed the "
            f"engine's context of {model.context}",
            hint="lower --prompt-tokens or --output-tokens",
        )


def _lap(model: Embedded, prompt: list[int], tokens: int, device: torch.device) -> Lap:
    """Time one request; what the device still has to do for another is waited for first.

    The loop reads each token back from the device before it gives it out, so that a stamp is not
    taken of work that was only queued.
    """
    stamps: list[float] = []
    failed: list[str] = []

    def note(chunk: Chunk) -> None:
        stamps.extend(perf_counter() for _ in chunk.token_ids)
        if chunk.error:
            failed.append(chunk.error)

    _synchronize(device)
    begun = perf_counter()
    ticket = model.submit(prompt, Sampling(max_tokens=tokens, ignore_eos=True), note)
    ticket.wait()
    _synchronize(device)
    if failed or len(stamps) != tokens:
        said = failed[0] if failed else f"{len(stamps)} tokens of {tokens} came"
        raise ToolError(f"the engine failed while it was timed: {said}", hint="build it again")
    gaps = tuple(after - before for before, after in pairwise(stamps))
    return Lap(first=stamps[0] - begun, gaps=gaps)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
