"""Judge one running server against another: a policy's gates measure both over OpenAI's API.

The evidence is what `gate` leaves, controls and early looks included, so that it can be judged
again anywhere. Who holds a key gives it by an environment variable: it is written nowhere.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from builders import files, gate
from builders.errors import PlanError, UsageError
from builders.gate import controls, planning
from builders.gate.policy import Policy
from builders.gate.speed.latency import Pair
from builders.pipeline import judging
from builders.pipeline.judging import Judgement
from builders.pipeline.speed import Served
from builders.pipeline.stages import VERDICTS, Side, named, plain
from builders.progress import Progress
from builders.scorer import Scorer
from builders.serve import scoring
from builders.serve.completions import Completions

SERVERS: Final = "servers.json"
POLICY: Final = "policy.toml"
BOTH: Final = (Side.BASELINE, Side.CANDIDATE)
_SCHEMES: Final = ("http://", "https://")


def is_url(text: str) -> bool:
    """Whether an argument names a server, not a file or folder."""
    return text.startswith(_SCHEMES)


@dataclass(slots=True, kw_only=True)
class Servers:
    """Both servers, opened on first use; ``tokenizer`` is the folder that cuts texts for them."""

    sides: Mapping[Side, Served]
    tokenizer: Path | None
    _scorers: dict[Side, Scorer] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def open(self, needs: str, sides: Sequence[Side]) -> object:
        """Return a scorer, an endpoint, or a pair of endpoints, as a gate ``needs``."""
        if needs == "scorer":
            return self._scorer(sides[0])
        openers = [self.sides[side].opener() for side in sides]
        if needs == "endpoint":
            return openers[0]
        local = all(self.sides[side].local for side in sides)
        return Pair(baseline=openers[0], candidate=openers[1], local=local)

    def _scorer(self, side: Side) -> Scorer:
        if self.tokenizer is None:
            raise UsageError(
                "perplexity and accuracy need the model's own tokenizer",
                hint="--tokenizer DIR with its tokenizer.json and config.json",
            )
        if side not in self._scorers:
            one = self.sides[side]
            asked = Completions(url=one.url, key=one.key)
            opened = scoring.scorer(asked, self.tokenizer, model=one.model)
            self._scorers[side] = self._stack.enter_context(opened)
        return self._scorers[side]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def compare(
    servers: Servers, policy: Path, out: Path, progress: Progress, say: Callable[[str], None]
) -> Judgement:
    """Measure both servers into the empty folder ``out`` and judge; ``say`` hears of each step.

    All that can be refused without work is refused first.
    """
    chosen = Policy.read(policy)
    chosen.check()
    if refusals := planning.suite(chosen).refusals():
        raise PlanError(refusals)
    servers = _named(servers)
    with servers, files.disk_errors(f"writing {out}"):
        _look(servers, chosen)
        _record(servers, policy, out)
        measuring = _Measuring(servers=servers, policy=chosen, out=out, progress=progress, say=say)
        for name, settings in chosen.gates:
            if not measuring.gate(name, settings):
                break
    found = judging.judge(out, policy)
    told = json.dumps([plain(verdict) for verdict in found.report.verdicts], indent=1)
    files.write_atomic(out / VERDICTS, told + "\n")
    urls = (servers.sides[side].url for side in BOTH)
    return replace(found, report=replace(found.report, title=" → ".join(urls)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measuring:
    """What goes into the folders of evidence, in the order in which a release measures."""

    servers: Servers
    policy: Policy
    out: Path
    progress: Progress
    say: Callable[[str], None]

    def gate(self, name: str, settings: object) -> bool:
        """Measure one gate; False where an early look at the candidate was enough."""
        wanted = controls.wanted(name, settings)
        if gate.load(name).NEEDS == "endpoint-pair":
            self._measure(name, self.out / name, settings, BOTH)
            for which in wanted:
                self._control(name, which, settings)
            return True
        found = {"baseline": self._side(name, settings, Side.BASELINE)}
        for which in wanted:
            found[which] = self._control(name, which, settings)
        if controls.looks(name, found, self.policy.early):
            found[controls.EARLY] = self._control(name, controls.EARLY, settings)
            with named(name):
                if controls.fails_early(name, found, settings, self.policy.early):
                    return False
        self._side(name, settings, Side.CANDIDATE)
        return True

    def _side(self, name: str, settings: object, side: Side) -> Path:
        return self._measure(name, self.out / name / side.value, settings, (side,))

    def _measure(self, name: str, out: Path, settings: object, sides: Sequence[Side]) -> Path:
        chosen = gate.load(name)
        self._begin(out)
        with named(name):
            subject = self.servers.open(chosen.NEEDS, sides)
            chosen.measure(subject, settings, out, self.progress)
        return out

    def _control(self, name: str, which: str, settings: object) -> Path:
        """Measure a control; what is measured in turns gets its subject twice."""
        needs, side = gate.load(name).NEEDS, Side(controls.WHOSE[which])
        out = self.out / name / which
        self._begin(out)
        with named(name):
            subject = self.servers.open(needs, (side, side))
            controls.measure(name, which, subject, settings, out, self.progress)
        return out

    def _begin(self, out: Path) -> None:
        self.say(f"{out.relative_to(self.out)} …")
        out.mkdir(parents=True)


def _named(servers: Servers) -> Servers:
    """Find under which name each server serves its model, and refuse secrets in URLs."""
    sides = {}
    for side, one in servers.sides.items():
        if urlsplit(one.url).username is not None:
            raise UsageError(
                "a URL with a name or password in it would end up in the evidence",
                hint="--key-variable NAME takes the key from the environment",
            )
        asked = Completions(url=one.url, key=one.key)
        try:
            name, _ = scoring.served_name(asked, one.model)
        finally:
            asked.close()
        sides[side] = replace(one, url=asked.url, model=name)
    return replace(servers, sides=sides)


def _look(servers: Servers, policy: Policy) -> None:
    """Open both scorers before anything is measured, where the policy needs them."""
    if any(gate.load(name).NEEDS == "scorer" for name, _ in policy.gates):
        for side in BOTH:
            servers.open("scorer", (side,))


def _record(servers: Servers, policy: Path, out: Path) -> None:
    """Write down what is compared, and by which policy."""
    told: dict[str, Any] = {
        side.value: {"url": one.url, "model": one.model} for side, one in servers.sides.items()
    }
    files.write_atomic(out / SERVERS, json.dumps(told, indent=1, sort_keys=True) + "\n")
    files.write_atomic(out / POLICY, policy.read_text(encoding="utf-8"))
