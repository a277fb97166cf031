"""Gather what the stages found into the report's typed input, and write its files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from builders import report
from builders.gate.speed import latency
from builders.pipeline import attempts, examination
from builders.pipeline.stages import Side, Stages, plain, read_verdicts
from builders.pipeline.versions import versions
from builders.report import Latency, Report, Samples, Sizes
from builders.store import Stage

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"
_LIBRARIES: Final = ("torch", "transformers", "nvidia-modelopt", "lm-eval", "tritonclient")


def gather(stages: Stages) -> Report:
    """Run every stage that is not done yet and put together what they found.

    Equal however often it is run: each stage with the time that its work took once.
    """
    plan, policy = stages.plan, stages.policy
    if policy is None:
        raise ValueError("a report needs a policy")
    verdicts = read_verdicts(stages.verdicts())
    seen = examination.read(stages)
    candidate, baseline = (stages.engine(side) for side in (Side.CANDIDATE, Side.BASELINE))
    return Report(
        title=plan.serve.name,
        channel=plan.channel,
        verdicts=verdicts,
        policy=policy.name,
        profile=policy.profile.value,
        confidence=policy.each,
        candidates=policy.candidates,
        attempts=attempts.tried(stages),
        required=tuple(name for name, _ in stages.gates),
        facts=_facts(stages),
        sizes=Sizes(baseline_bytes=_weights(baseline), candidate_bytes=_weights(candidate)),
        latency=_latency(stages),
        changes=seen.changes,
        subjects=seen.subjects,
        divergence=seen.divergence,
        stages=tuple(
            report.Stage(name=s.name, key=s.key, cached=False, seconds=s.worked)
            for s in stages.done.values()
        ),
        versions=tuple(versions(*_LIBRARIES).items()),
        notes=(policy.description,) if policy.description else (),
    )


def write(stages: Stages) -> Stage:
    """The report's pages, as a stage: keyed by all that they show."""
    gathered = gather(stages)
    inputs = {"report": plain(gathered)}

    def work(out: Path) -> None:
        (out / HTML).write_text(report.as_html(gathered), encoding="utf-8")
        (out / MARKDOWN).write_text(report.as_markdown(gathered), encoding="utf-8")

    return stages.run("report", inputs, work)


def attempts_file(stages: Stages) -> Stage:
    """The candidates tried so far, as a stage of the bundle."""
    tried = plain(attempts.tried(stages))

    def work(out: Path) -> None:
        (out / attempts.FILE).write_text(json.dumps(tried, indent=1) + "\n", encoding="utf-8")

    return stages.run("attempts", {"attempts": tried}, work)


def as_run(stages: Stages) -> Report:
    """The report with this run's own stages: which were reused, and how long each took now."""
    ran = (
        report.Stage(name=s.name, key=s.key, cached=s.cached, seconds=s.seconds)
        for s in stages.done.values()
    )
    return replace(gather(stages), stages=tuple(ran))


def _facts(stages: Stages) -> tuple[tuple[str, str], ...]:
    plan = stages.plan
    model, recipe = plan.checkpoint, plan.recipe
    calibration = plan.calibration
    return (
        ("Checkpoint", model.path.name),
        ("Architecture", f"{model.architecture}, {model.parameters:,} parameters"),
        ("Recipe", f"{recipe.name}: {recipe.summary}"),
        ("Scheme", recipe.scheme),
        ("Left alone", ", ".join(recipe.keep)),
        ("Calibration", f"{calibration.samples} texts of {calibration.length} tokens at most"),
        ("Tier", f"{plan.tier.name} ({plan.tier.architecture})"),
        ("Runtime", f"{plan.runtime.name} {plan.runtime.version}".strip()),
        ("Context", f"{plan.serve.context} tokens"),
        ("Concurrency", f"{plan.serve.concurrency} requests at once"),
        ("KV cache", f"{plan.capacity.kv_bytes_per_token:,} bytes a token"),
        ("Plan", f"sha256:{plan.digest}"),
    )


def _weights(stage: Stage) -> int:
    return sum(a.size for a in stage.tree.artifacts if a.path.endswith(".safetensors"))


def _latency(stages: Stages) -> Latency | None:
    measured = stages.measured().get("latency")
    if measured is None:
        return None
    seen = latency.seen(measured["baseline"].path)
    baseline, candidate = (
        Samples(ttft_ms=side.ttft_ms, itl_ms=side.itl_ms, tokens_per_second=side.tokens_per_second)
        for side in seen
    )
    return Latency(baseline=baseline, candidate=candidate)
