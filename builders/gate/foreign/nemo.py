"""NeMo Evaluator's ``results.jsonl``: a reward for each problem and repeat.

Read of version 0.4.0. Repeats of one problem are no more problems: their mean counts once.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from builders.errors import EvidenceError
from builders.gate.evidence import Sample
from builders.gate.foreign import reading
from builders.gate.statistics.intervals import mean


def items(paths: Sequence[Path], _metric: str) -> list[Sample]:
    """Return every problem of all benchmarks, with the mean reward of its repeats."""
    found: list[Sample] = []
    for path in paths:
        rewards: dict[str, list[float]] = defaultdict(list)
        for problem, reward in reading.lines(
            path, lambda line: (str(line["problem_idx"]), float(line["reward"]))
        ):
            rewards[problem].append(reward)
        if not rewards:
            raise EvidenceError(f"{path}: no problems in it", hint="let the evaluation end")
        found += [_item(path.parent.name, name, mean(own)) for name, own in rewards.items()]
    return found


def _item(benchmark: str, problem: str, reward: float) -> Sample:
    if not 0 <= reward <= 1:
        raise EvidenceError(
            f"{benchmark}: problem {problem} has the reward {reward}",
            hint="a share between 0 and 1 can be judged, nothing else",
        )
    return {
        "unit": f"{benchmark}/{problem}",
        "task": benchmark,
        "cluster": benchmark,
        "choices": 1,
        "choice": reward,
        "right": int(reward) if reward in {0.0, 1.0} else reward,
        "loglikelihoods": [],
        "prompt": "",
        **dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), ""),
    }
