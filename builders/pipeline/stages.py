"""The stages of one plan: what goes into each, what does its work, what comes out of it.

Every stage is keyed by what goes in and kept in the store, so each runs once: a killed run goes on
where it was, and a changed margin re-judges without measuring again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from builders import engine, gate, quantize, render
from builders.bundle import fingerprint
from builders.checkpoint import Checkpoint
from builders.errors import EvidenceError, ReleaseError, UsageError
from builders.gate import controls
from builders.gate.policy import Policy
from builders.pipeline import lanes
from builders.pipeline.subjects import Subjects
from builders.pipeline.versions import code, versions
from builders.plan import Plan
from builders.progress import Progress
from builders.quantize.backends import libraries
from builders.quantize.calibration import Corpus, is_needed
from builders.quantize.memory import Workspace
from builders.recipe import Recipe
from builders.store import Stage, Store
from builders.verdict import Verdict

VERDICTS: Final = "verdicts.json"
_MEASURING: Final = ("torch", "transformers", "lm-eval", "tritonclient")


class Side(StrEnum):
    """The unquantized model that we must not be worse than, and the one on trial."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint to build from, its digest, and whether it is the store's own or the user's."""

    path: Path
    content: str
    owned: bool


class WouldRun(Exception):
    """A dry run came to a stage that is not done yet: its name, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.name, self.why = name, why


class Unmeasured(EvidenceError):
    """A gate could not be measured or is void: which one, and why."""

    def __init__(self, gate: str, why: str, *, hint: str) -> None:
        super().__init__(why, hint=hint)
        self.gate = gate


@contextmanager
def named(gate: str) -> Iterator[None]:
    """Say of an `EvidenceError` which gate it stops."""
    try:
        yield
    except EvidenceError as error:
        raise Unmeasured(gate, str(error), hint=error.hint) from error


class Watcher(Protocol):
    """Who is told of stages as they start and end, and of progress within them."""

    @property
    def progress(self) -> Progress:
        """Who is told how far the stage is."""

    def started(self, name: str) -> None:
        """Hear that a stage's work begins."""

    def finished(self, stage: Stage) -> None:
        """Hear that a stage is done, or was found done."""

    def waiting(self, name: str) -> None:
        """Hear that another run works on the same stage."""

    def say(self, line: str) -> None:
        """Hear one sentence for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """One method a stage; each runs at most once and is remembered in the order of the road."""

    plan: Plan
    policy: Policy | None
    store: Store
    watcher: Watcher
    subjects: Subjects
    dry: bool = False
    done: dict[str, Stage] = field(default_factory=dict)

    @property
    def gates(self) -> tuple[tuple[str, Any], ...]:
        """The gates that the policy requires, each with its settings."""
        return self.policy.gates if self.policy else ()

    def quantized(self) -> Stage:
        """The quantized checkpoint: weights, scales, `hf_quant_config.json`."""
        plan = self.plan
        if lanes.of(plan).compiles:
            return self.converted(Side.CANDIDATE)
        if plan.imported:
            raise UsageError(
                f"{plan.checkpoint.path} came quantized; there is nothing left to quantize",
                hint="build, render, gate or release it",
            )
        corpus = Corpus.read(plan.calibration).digest if is_needed(plan.recipe) else ""
        inputs = {
            "checkpoint": content_of(plan.checkpoint),
            "recipe": _worked(plan.recipe),
            "calibration": corpus,
            "code": code("quantize", "autopsy", "numerics"),
            "versions": versions("torch", "transformers", *libraries(plan.recipe)),
        }

        scratch = self.store.root / "unfinished" / fingerprint(inputs)
        workspace = Workspace(memory=plan.memory, scratch=scratch)

        def work(out: Path) -> None:
            progress, texts = self.watcher.progress, plan.calibration
            quantize.quantize(
                plan.checkpoint, plan.recipe, texts, out, progress, workspace=workspace
            )

        return self.run("quantize", inputs, work)

    def converted(self, side: Side) -> Stage:
        """The TensorRT-LLM checkpoint of a side, which trtllm-build takes."""
        plan, recipe = self.plan, self.plan.recipe if side is Side.CANDIDATE else None
        how = lanes.conversion(plan, recipe)
        needed = recipe is not None and is_needed(recipe)
        inputs = {
            "checkpoint": content_of(plan.checkpoint),
            "recipe": plain(recipe),
            "conversion": plain(how),
            "calibration": Corpus.read(plan.calibration).digest if needed else "",
            "code": code("quantize", "numerics"),
            "versions": versions("torch", "transformers", "nvidia-modelopt"),
        }

        def work(out: Path) -> None:
            progress = self.watcher.progress
            quantize.convert(plan.checkpoint, recipe, plan.calibration, how, out, progress)

        return self.run(_name("quantize", side), inputs, work)

    def source(self, side: Side) -> Source:
        """The checkpoint that a side's engine is built from."""
        if lanes.of(self.plan).compiles:
            made = self.converted(side)
            return Source(made.path, made.tree.digest, owned=True)
        if side is Side.CANDIDATE and not self.plan.imported:
            made = self.quantized()
            return Source(made.path, made.tree.digest, owned=True)
        given = self.plan.checkpoint if side is Side.CANDIDATE else self.plan.baseline
        return Source(given.path, content_of(given), owned=False)

    def engine(self, side: Side) -> Stage:
        """What the runtime loads, of either side."""
        plan, source = self.plan, self.source(side)
        recipe = plan.recipe if side is Side.CANDIDATE else None
        settings = lanes.of(plan).settings(plan, recipe, self.store.root / "work")
        inputs = {
            "checkpoint": source.content,
            "runtime": asdict(plan.runtime),
            "settings": plain(settings),
            **lanes.builder(plan),
            "code": code("engine", "numerics"),
            "versions": versions(),
        }

        def work(out: Path) -> None:
            progress, owned = self.watcher.progress, source.owned
            engine.build(plan.runtime.lane, source.path, settings, out, progress, owned=owned)

        return self.run(_name("build", side), inputs, work)

    def repository(self, side: Side) -> Stage:
        """The Triton model repository that serves the engine of either side."""
        plan, built = self.plan, self.engine(side)
        lane = lanes.of(plan)
        context = render.Context(
            name=plan.serve.name,
            context=plan.serve.context,
            concurrency=plan.serve.concurrency,
            gpu=plan.tier.gpu,
            engine_digest=built.tree.digest,
            **lane.facts(plan, built.path),
        )
        texts = render.texts(lane.variant, context)
        inputs = {"engine": built.tree.digest, "texts": fingerprint(texts), "versions": versions()}

        def work(out: Path) -> None:
            render.render(lane.variant, context, built.path, out)
            render.check(out, lane.variant, context)

        return self.run(_name("render", side), inputs, work)

    def evidence(self, name: str, settings: object) -> dict[str, Stage]:
        """The raw samples of one gate by what was measured: both sides, and the controls.

        Without the candidate's where an early look at it was enough.
        """
        wanted = controls.wanted(name, settings)
        if gate.load(name).NEEDS == "endpoint-pair":
            tried = {which: self._control(name, which, settings) for which in wanted}
            both = self._measure(name, name, settings, tuple(Side))
            return {**{side.value: both for side in Side}, **tried}
        baseline = self._measure(f"{name}/{Side.BASELINE}", name, settings, (Side.BASELINE,))
        tried = {which: self._control(name, which, settings) for which in wanted}
        found = {"baseline": baseline, **tried}
        if controls.looks(name, _paths(found), self._early):
            found |= {controls.EARLY: self._control(name, controls.EARLY, settings)}
            with named(name):
                early = controls.fails_early(name, _paths(found), settings, self._early)
            if early:
                return found
        candidate = self._measure(f"{name}/{Side.CANDIDATE}", name, settings, (Side.CANDIDATE,))
        return {**found, "candidate": candidate}

    @property
    def _early(self) -> float:
        return self.policy.early if self.policy else 1.0

    def measured(self) -> dict[str, dict[str, Stage]]:
        """The evidence of every gate, up to one that an early look ended: the rest is not asked."""
        found: dict[str, dict[str, Stage]] = {}
        for name, settings in self.gates:
            found[name] = self.evidence(name, settings)
            if Side.CANDIDATE not in found[name]:
                break
        return found

    def verdicts(self) -> Stage:
        """What every gate of the policy says of the evidence; changed margins judge it anew."""
        evidence = self.measured()
        inputs = {
            "policy": {name: plain(settings) for name, settings in self.gates},
            "early": self._early,
            "evidence": {
                name: {which: stage.tree.digest for which, stage in found.items()}
                for name, found in evidence.items()
            },
            "code": code("gate"),
            "versions": versions(),
        }

        def work(out: Path) -> None:
            found: list[Verdict] = []
            for name, settings in self.gates:
                if name in evidence:
                    folders = _paths(evidence[name])
                    with named(name):
                        found += controls.judge(name, folders, settings, early=self._early)
            (out / VERDICTS).write_text(json.dumps([plain(v) for v in found], indent=1) + "\n")

        return self.run("judge", inputs, work)

    def _measure(self, stage: str, name: str, settings: object, sides: tuple[Side, ...]) -> Stage:
        chosen = gate.load(name)
        subjects = self._subjects(name, sides)
        inputs = {
            "subject": [subject.tree.digest for subject in subjects],
            "gate": chosen.inputs(settings),
            "versions": versions(*_MEASURING),
        }

        def work(out: Path) -> None:
            subject = self.subjects.open(chosen.NEEDS, [subject.path for subject in subjects])
            with named(name):
                chosen.measure(subject, settings, out, self.watcher.progress)

        return self.run(stage, inputs, work)

    def _subjects(self, name: str, sides: tuple[Side, ...]) -> list[Stage]:
        served = gate.load(name).NEEDS != "scorer"
        return [self.repository(side) if served else self.engine(side) for side in sides]

    def _control(self, name: str, which: str, settings: object) -> Stage:
        """The baseline in another order or damaged on purpose, or an early look at the candidate.

        What is measured in turns gets its subject twice.
        """
        needs, side = gate.load(name).NEEDS, Side(controls.WHOSE[which])
        subjects = self._subjects(name, (side,)) * (2 if needs == "endpoint-pair" else 1)
        inputs = {
            "subject": [subject.tree.digest for subject in subjects],
            "gate": controls.inputs(name, which, settings),
            "versions": versions(*_MEASURING),
        }

        def work(out: Path) -> None:
            subject = self.subjects.open(needs, [subject.path for subject in subjects])
            with named(name):
                controls.measure(name, which, subject, settings, out, self.watcher.progress)

        return self.run(f"{name}/{which}", inputs, work)

    def run(self, name: str, inputs: Mapping[str, object], work: Callable[[Path], None]) -> Stage:
        """Run one stage, or find it in the store, and tell the watcher."""
        if name in self.done:
            return self.done[name]
        if self.dry:
            found, why = self.store.find(name, inputs=inputs)
            if found is None:
                raise WouldRun(name, why)
            return self.done.setdefault(name, found)

        def announced(out: Path) -> None:
            self.watcher.started(name)
            work(out)

        stage = self.store.run(name, inputs=inputs, work=announced, waiting=self.watcher.waiting)
        self.done[name] = stage
        self.watcher.finished(stage)
        return stage


def _worked(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe does work: not what it says of itself."""
    told = {"summary", "expects", "source"}
    return {key: value for key, value in plain(recipe).items() if key not in told}


def read_verdicts(stage: Stage) -> tuple[Verdict, ...]:
    """Read what `Stages.verdicts` wrote."""
    return read_verdicts_of(stage.path / VERDICTS)


def read_verdicts_of(path: Path) -> tuple[Verdict, ...]:
    """Read a file of verdicts; one that is none is a `ReleaseError`."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Verdict(**(row | {"numbers": tuple((str(k), v) for k, v in row["numbers"])}))
            for row in rows
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"{path}: no verdicts: {error}", hint="judge again") from error


def plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """Turn a dataclass of the house into JSON: enums by value, files by name."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        items = [plain(item) for item in value]
        return sorted(items) if isinstance(value, frozenset) else items
    return value


def content_of(checkpoint: Checkpoint) -> str:
    """Return a digest of every file of a checkpoint, its weights included."""
    return fingerprint({artifact.path: artifact.sha256 for artifact in checkpoint.artifacts})


def _paths(found: Mapping[str, Stage]) -> dict[str, Path]:
    return {which: stage.path for which, stage in found.items()}


def _name(verb: str, side: Side) -> str:
    return verb if side is Side.CANDIDATE else f"{verb}/{side}"
