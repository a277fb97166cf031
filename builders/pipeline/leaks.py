"""Hold the calibration texts against everything that the gates will ask."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from builders.errors import UsageError
from builders.gate import jsonl
from builders.gate.policy import Policy
from builders.gate.scoring import corpus, tasks
from builders.plan import Plan
from builders.quantize.calibration import Corpus, is_needed
from builders.quantize.leak import overlap


def check(plan: Plan, policy: Policy | None, say: Callable[[str], None]) -> None:
    """Read the calibration texts, and refuse those that hold more of the evaluation than allowed.

    What little they share is said. Without a policy nothing is judged, so nothing can leak.
    """
    if not is_needed(plan.recipe):
        return
    texts = Corpus.read(plan.calibration)
    read = {document.place: " ".join(_strings(document.content)) for document in texts.chosen}
    for name, settings in policy.gates if policy else ():
        if name not in _READERS:
            continue
        leak = overlap(read, _READERS[name](settings))
        if leak.share > plan.calibration.overlap:
            raise UsageError(
                f"{leak.first}: calibration texts hold {leak} of what the {name} gate reads, in "
                f"{leak.texts} of {len(read)} texts: {leak.words!r}",
                hint="calibrate on other texts; if the same words must stand in both, set "
                f"quantize.calibration.overlap above {leak.share:.4f}",
            )
        if leak.shared:
            say(f"calibration texts share {leak} with the {name} gate")


def _corpus(settings: Any) -> Iterator[str]:  # noqa: ANN401 - each gate has settings of its own
    """A file that lies on the hub is read when it is measured, and not here."""
    local = [source for source in settings.corpus if isinstance(source, Path)]
    return (document.text for document in corpus.read(local)) if local else iter(())


def _task(settings: Any) -> Iterator[str]:  # noqa: ANN401
    """A task that lm-eval knows by its name has its data elsewhere."""
    for _, path in tasks.data(settings.path) if settings.path else ():
        if path.suffix in {".json", ".jsonl"}:
            yield from _file(path)


def _prompts(settings: Any) -> Iterator[str]:  # noqa: ANN401
    return _file(settings.file)


def _file(path: Path) -> Iterator[str]:
    if path.suffix == ".json":
        yield from _strings(json.loads(jsonl.text(path)))
        return
    for _, value in jsonl.objects(path):
        yield from _strings(value)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


_READERS: Final[Mapping[str, Callable[[Any], Iterator[str]]]] = {
    "perplexity": _corpus,
    "accuracy": _task,
    "prompts": _prompts,
}
