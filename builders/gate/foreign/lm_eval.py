"""lm-eval's samples (``--log_samples``): one line for each item and filter of a task.

Read of version 0.4.13; log-likelihoods stand there as text, ``["-16.57", "False"]``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate.evidence import Sample
from builders.gate.foreign import reading

NAME: Final = re.compile(r"samples_(.+?)_\d{4}-\d\d-\d\dT.*\.jsonl\Z")
SHOWN: Final = 240  # characters of a prompt kept for people to read


def items(paths: Sequence[Path], metric: str) -> list[Sample]:
    """Return every item of all files, each as its task's first filter judged it."""
    return [sample for path in paths for sample in _task(path, metric)]


def _task(path: Path, metric: str) -> list[Sample]:
    named = NAME.match(path.name)
    task = named[1] if named else path.stem.removeprefix("samples_")
    found = reading.lines(path, lambda line: (line.get("filter"), _item(task, line, metric)))
    if not found:
        raise EvidenceError(f"{path}: no items in it", hint="run lm-eval with --log_samples")
    return [sample for name, sample in found if name == found[0][0]]


def _item(task: str, line: Mapping[str, Any], metric: str) -> Sample:
    answers = line["filtered_resps"]
    values = [float(answer[0]) for answer in answers if isinstance(answer, list)]
    right = float(line[metric if metric in line else line["metrics"][0]])
    return {
        "unit": f"{task}/{line['doc_id']}",
        "task": task,
        "cluster": task,
        "choices": len(values) or 1,
        "choice": max(range(len(values)), key=values.__getitem__) if values else str(answers[0]),
        "right": int(right) if right in {0.0, 1.0} else right,
        "loglikelihoods": values,
        "prompt": str(next(iter(line["arguments"].values()))["arg_0"])[-SHOWN:],
        **{key: line[key] for key in ("doc_hash", "prompt_hash", "target_hash")},
    }
