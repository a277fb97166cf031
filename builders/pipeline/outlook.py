"""What a dry run can see of the stages: which are done, and why the others would run."""

from collections.abc import Callable
from functools import partial
from typing import Any

from builders.pipeline.stages import Side, Stages, WouldRun


def outlook(stages: Stages) -> dict[str, str]:
    """Say of each stage that a dry run can see whether it is done, or why it would run.

    A stage that needs another one which would run cannot be keyed yet and is left out.
    """
    seen: dict[str, str] = {}

    def tried(step: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the step returns
        try:
            return step()
        except WouldRun as stage:
            seen.setdefault(stage.name, f"would run ({stage.why})")
            return None

    for step in (
        *(() if stages.plan.imported else (stages.quantized,)),
        *(partial(stages.engine, side) for side in Side),
    ):
        tried(step)
    for name, settings in stages.gates:
        found = tried(partial(stages.evidence, name, settings))
        if found and Side.CANDIDATE not in found:  # an early look ended it: no more is done
            break
    else:
        for side in Side:
            tried(partial(stages.repository, side))
    tried(stages.verdicts)
    return dict.fromkeys(stages.done, "done before") | seen
