"""The product's story: a plan, its stages, verdicts, a sealed bundle, a channel.

The only place that sees more than one room. Each function here is one command of the command line.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders import autopsy, files, serve
from builders.bundle import Artifact, Tree
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, ToolError
from builders.gate import load, planning
from builders.gate.policy import Policy
from builders.gate.statistics.power import Suite
from builders.home import Home
from builders.pipeline import attempts, lanes, leaks, reporting, speaking
from builders.pipeline.outlook import outlook
from builders.pipeline.request import Request
from builders.pipeline.stages import Side, Stages, Unmeasured, Watcher
from builders.pipeline.subjects import Subjects
from builders.plan import Plan
from builders.quantize.calibration import Corpus, is_needed
from builders.quantize.shapes import shape_refusals
from builders.release import channel as channels
from builders.release import promotion, seal, signing
from builders.release.channel import Channel
from builders.release.manifest import Predicate
from builders.release.signing import SigningKey, Trusted
from builders.render import context as render_context
from builders.report import Landing, Report
from builders.spec import Model, Spec
from builders.store import Stage, Store
from builders.verdict import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Every verdict on one candidate, the page that explains them, and what became of it."""

    report: Report
    page: Path
    landing: Landing

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts."""
        return self.report.outcome


def plan(request: Request) -> Plan:
    """Resolve a release file; every reason why it cannot work is in one `PlanError`."""
    spec = Spec.read(request.file, request.overrides)
    render_context.refuse_name(spec.serve.name)
    channels.refuse_name(spec.channel)
    baseline = Checkpoint.open(_local(spec.baseline)) if spec.baseline else None
    resolved = Plan.resolve(spec, Checkpoint.open(_local(spec.model)), baseline)
    refusals = resolved.refusals()
    if not resolved.imported:
        refusals += shape_refusals(resolved.checkpoint, resolved.recipe)
    if refusals:
        raise PlanError(refusals)
    return resolved


@contextmanager
def stages(
    request: Request, watcher: Watcher, *, judging: bool = True, dry: bool = False
) -> Iterator[Stages]:
    """Open the stages of a plan; all that can be refused without work is refused here.

    Only those who go on to judge need a policy, and a Triton for the gates that measure one.
    """
    spec = Spec.read(request.file, request.overrides)
    resolved = plan(request)
    if resolved.imported:
        _inspect(resolved)
    policy = Policy.read(resolved.policy) if judging else None
    store = Store.at(request.store or spec.store or request.home.store)
    if policy:
        policy.check()
        if refusals := planning.suite(policy, attempts.seen(store, resolved, policy)).refusals():
            raise PlanError(refusals)
    leaks.check(resolved, policy, watcher.say)
    if policy and not dry:
        _refuse_to_measure(resolved, policy, request.home)
    if not dry:
        request.home.prepare()
    with Subjects(name=resolved.serve.name, home=request.home) as subjects:
        yield Stages(
            plan=resolved,
            policy=policy,
            store=store,
            watcher=watcher,
            subjects=subjects,
            dry=dry,
        )


def _refuse_to_measure(resolved: Plan, policy: Policy, home: Home) -> None:
    needs = {load(name).NEEDS for name, _ in policy.gates}
    lanes.refuse_to_measure(resolved, needs)
    if lanes.of(resolved).speaks:
        speaking.refuse_to_measure(resolved, home)
    elif needs - {"scorer"}:
        serve.preflight()


def power(request: Request) -> Suite | None:
    """Say what the policy can certify, measuring nothing; None where there is no policy yet."""
    spec = Spec.read(request.file, request.overrides)
    resolved = plan(request)
    if not resolved.policy.exists():
        return None
    policy = Policy.read(resolved.policy)
    policy.check()
    store = Store.at(request.store or spec.store or request.home.store)
    return planning.suite(policy, attempts.seen(store, resolved, policy))


def dry_run(request: Request, watcher: Watcher) -> tuple[Plan, dict[str, str]]:
    """Resolve the plan and say which stages are done and which would run; run none."""
    with stages(request, watcher, dry=True) as opened:
        return opened.plan, outlook(opened)


def quantize(request: Request, watcher: Watcher, out: Path | None) -> Stage:
    """Quantize the checkpoint."""
    return _stage(request, watcher, out, Stages.quantized)


def build(request: Request, watcher: Watcher, out: Path | None) -> Stage:
    """Build the candidate's engine."""
    return _stage(request, watcher, out, lambda opened: opened.engine(Side.CANDIDATE))


def render(request: Request, watcher: Watcher, out: Path | None) -> Stage:
    """Render the candidate's model repository."""
    return _stage(request, watcher, out, lambda opened: opened.repository(Side.CANDIDATE))


def gate(request: Request, watcher: Watcher, out: Path | None) -> Judged:
    """Judge the candidate and promote nothing."""
    if out:
        files.refuse_occupied(out)
    with stages(request, watcher) as opened:
        judged = judge(opened)
        if out:
            _leave(opened, out)
        return judged


def _leave(opened: Stages, out: Path) -> None:
    """Leave in a folder of the user's what `judging.judge` reads: evidence, policy, verdicts."""
    parts = {
        **_evidence(opened),
        "verdicts": opened.verdicts().tree,
        "report": reporting.write(opened).tree,
    }
    artifacts = [
        Artifact(f"{name}/{a.path}", a.sha256, a.size)
        for name, tree in parts.items()
        for a in tree.artifacts
    ]
    opened.store.materialise(Tree(tuple(sorted(artifacts))), out)
    shutil.copyfile(opened.plan.policy, out / "policy.toml")


def _evidence(opened: Stages) -> dict[str, Tree]:
    gates = dict(opened.gates)
    return {
        f"evidence/{name}": stage.tree
        for name, stage in opened.done.items()
        if name.partition("/")[0] in gates
    }


def _stage(
    request: Request, watcher: Watcher, out: Path | None, run: Callable[[Stages], Stage]
) -> Stage:
    if out:
        files.refuse_occupied(out)
    with stages(request, watcher, judging=False) as opened:
        stage = run(opened)
        if out:
            opened.store.materialise(stage.tree, out)
        return stage


def judge(opened: Stages) -> Judged:
    """Measure what is not measured yet and judge it by the policy."""
    try:
        opened.verdicts()
    except Unmeasured:
        attempts.record(opened, None)
        raise
    page = reporting.write(opened)
    return Judged(
        report=reporting.as_run(opened),
        page=page.path / reporting.HTML,
        landing=Landing(bundle=str(page.path)),
    )


def release(request: Request, watcher: Watcher, out: Path | None = None) -> Judged:
    """Carry a checkpoint to its channel; a candidate that does not pass moves nothing."""
    if out:
        files.refuse_occupied(out)
    key = signing.ensure_key(request.home, watcher.say)
    with stages(request, watcher) as opened:
        channel = Channel.named(
            opened.store, opened.plan.channel, Trusted.load(request.home.trusted)
        )
        channel.history()  # a log that cannot be trusted is refused before any work
        judged = judge(opened)
        if judged.outcome is not Outcome.PASSED:
            return judged
        digest = _seal(opened, judged, key)
        required = (name for name, _ in opened.gates)
        promotion.promote(channel, digest, required=required, key=key)
        place = seal.directory(opened.store, digest)
        if out:
            opened.store.materialise(Tree.of(place), out)
        return Judged(
            report=reporting.as_run(opened),
            page=place / "report" / reporting.HTML,
            landing=Landing(release=digest, promoted=True, bundle=str(place)),
        )


def _seal(opened: Stages, judged: Judged, key: SigningKey) -> str:
    """Seal everything that a stranger needs to serve the release and to judge it again."""
    resolved = opened.plan
    written = opened.run("plan", {"plan": resolved.as_json()}, _plan_file(resolved))
    parts: dict[str, Tree | Path] = {
        "model_repository": opened.repository(Side.CANDIDATE).tree,
        "policy.toml": resolved.policy,
        "plan": written.tree,
        "verdicts": opened.verdicts().tree,
        "attempts": reporting.attempts_file(opened).tree,
        "report": reporting.write(opened).tree,
        **_evidence(opened),
    }
    predicate = Predicate(
        plan=resolved.digest,
        verdicts=judged.report.verdicts,
        tools=dict(judged.report.versions) | lanes.tools(resolved),
        stages={name: stage.key for name, stage in opened.done.items()},
        about={
            "checkpoint": resolved.checkpoint.path.name,
            "recipe": str(resolved.recipe),
            "calibration": _calibrated(resolved),
            "tier": resolved.tier.name,
            "runtime": resolved.runtime.name,
            "model": resolved.serve.name,
            "profile": judged.report.profile,
            "candidates tried": f"{judged.report.tried} of {judged.report.candidates}",
        },
    )
    return seal.seal(opened.store, parts, predicate, key)


def _inspect(resolved: Plan) -> None:
    """Stop the line where a checkpoint that came quantized does not hold what it declares."""
    found = autopsy.inspect(resolved.checkpoint.path, base=resolved.baseline)
    if not found.sound:
        first = next(one for one in found.findings if one.stops)
        raise ToolError(
            f"{resolved.checkpoint.path}: {first.where}: {first.what}",
            hint=f"enginesmith inspect {resolved.checkpoint.path}",
        )


def _calibrated(resolved: Plan) -> str:
    """Name the texts that set the scales: how many, how long at most, and their digest."""
    if not is_needed(resolved.recipe):
        return "none"
    texts = Corpus.read(resolved.calibration)
    return f"{texts.documents} texts of up to {texts.length} tokens, sha256:{texts.digest}"


def _plan_file(resolved: Plan) -> Callable[[Path], None]:
    def work(out: Path) -> None:
        files.write_atomic(out / "plan.json", json.dumps(resolved.as_json(), indent=1) + "\n")

    return work


def _local(model: Model) -> Path:
    if model.path:
        return model.path
    from builders import hub  # noqa: PLC0415 - heavy, and needed only for models of the hub

    return hub.fetch(model.hub_id, model.revision)
