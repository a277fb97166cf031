"""How fast something is, apart from any release: an engine in this process, servers by URL."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from builders import engine, serve
from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings, timing
from builders.engine.description import FILE
from builders.engine.embedded.declaration import Declaration
from builders.engine.timing import Lap, Timed, Work
from builders.errors import UsageError
from builders.gate import OpenEndpoint
from builders.gate.policy import Policy
from builders.gate.speed import latency
from builders.gate.statistics import intervals
from builders.gate.statistics.intervals import Bounds
from builders.gate.wire.openai import OpenAiEndpoint
from builders.parse import Table
from builders.progress import Progress
from builders.spec import override
from builders.verdict import Outcome, Verdict, worst

_CONFIDENCE: Final = 0.95
_MARGINS: Final = {"ttft_margin": 0.05, "itl_margin": 0.05}  # where no policy says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What an engine does in this process, each with one-sided bounds at 95 %."""

    timed: Timed
    work: Work
    bounds: Mapping[str, tuple[Bounds, str]]

    @classmethod
    def of(cls, timed: Timed, work: Work) -> Self:
        """Bound each measure over the laps, by Student's t."""
        bounds = {
            name: (
                intervals.mean_bounds(
                    [see(lap, work) for lap in timed.laps], confidence=_CONFIDENCE
                ),
                unit,
            )
            for name, (see, unit) in _MEASURES.items()
        }
        return cls(timed=timed, work=work, bounds=bounds)

    def as_json(self) -> dict[str, object]:
        """Return the bounds, and the raw times they were made of."""
        return {
            "device": self.timed.device,
            "threads": self.timed.threads,
            "prompt_tokens": self.work.prompt_tokens,
            "output_tokens": self.work.output_tokens,
            "repeats": len(self.timed.laps),
            "measures": {
                name: {"value": b.value, "low": b.low, "high": b.high, "unit": unit}
                for name, (b, unit) in self.bounds.items()
            },
            "laps": [{"first_s": lap.first, "gaps_s": list(lap.gaps)} for lap in self.timed.laps],
        }


_MEASURES: Final[Mapping[str, tuple[Callable[[Lap, Work], float], str]]] = {
    "TTFT": (lambda lap, _: 1000 * lap.first, "ms"),
    "ITL": (lambda lap, _: 1000 * intervals.mean(lap.gaps), "ms"),
    "prefill": (lambda lap, work: work.prompt_tokens / lap.first, "tokens/s"),
    "decode": (lambda lap, _: 1 / intervals.mean(lap.gaps), "tokens/s"),
    "request": (
        lambda lap, work: work.output_tokens / (lap.first + sum(lap.gaps)),
        "tokens/s",
    ),
}


def time(source: Path, work: Work, device: str | None, progress: Progress) -> Speed:
    """Time an engine, or a checkpoint of which one is made for the while."""
    with ExitStack() as stack:
        built = source
        if not (source / FILE).is_file():
            folder = tempfile.TemporaryDirectory(prefix="enginesmith-")
            built = Path(stack.enter_context(folder)) / "engine"
            built.mkdir()
            checkpoint = Checkpoint.open(source)
            settings = EngineSettings(
                context=min(work.prompt_tokens + work.output_tokens, checkpoint.context),
                kv_cache=Declaration.read(checkpoint).kv_cache,
            )
            engine.build("embedded", source, settings, built, progress)
        return Speed.of(timing.time(built, work, device=device, progress=progress), work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A served model: OpenAI's API at ``http://host:port/v1``, Triton's at ``grpc://host:port``."""

    url: str
    model: str
    chat: bool = False
    key: str = ""

    @property
    def local(self) -> bool:
        """Whether it runs on this machine."""
        return urlsplit(self.url).hostname in {"127.0.0.1", "localhost", "::1"}

    def opener(self) -> OpenEndpoint:
        """Return what opens a client of it."""
        place = urlsplit(self.url)
        if place.scheme == "grpc" and place.netloc:
            return serve.connect(place.netloc, self.model)
        if place.scheme in {"http", "https"} and place.netloc:
            return lambda: OpenAiEndpoint(
                url=self.url, model=self.model, chat=self.chat, key=self.key
            )
        raise UsageError(
            f"{self.url} is no URL of a server",
            hint="http://127.0.0.1:8000/v1 for OpenAI's API, grpc://127.0.0.1:8001 for Triton's",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the latency gate says of two servers."""

    verdicts: tuple[Verdict, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts."""
        return worst(verdict.outcome for verdict in self.verdicts)

    def as_json(self) -> dict[str, object]:
        """Return verdicts with all their numbers."""
        return {
            "outcome": self.outcome.value,
            "verdicts": [
                {**verdict.as_json(), "numbers": dict(verdict.numbers)} for verdict in self.verdicts
            ],
        }


def compare_latency(
    baseline: Served, candidate: Served, settings: latency.Settings, out: Path | None, say: Progress
) -> Compared:
    """Measure two servers in turns and judge; the evidence is left in ``out``, if there is one."""
    pair = latency.Pair(
        baseline=baseline.opener(),
        candidate=candidate.opener(),
        local=baseline.local and candidate.local,
    )
    latency.check(settings)
    with tempfile.TemporaryDirectory(prefix="enginesmith-") as scratch:
        folder = out or Path(scratch)
        if out:
            claim(out)
        latency.measure(pair, settings, folder, say)
        return Compared(verdicts=latency.judge(folder, folder, settings))


def latency_settings(policy: Path | None, overrides: Sequence[str]) -> latency.Settings:
    """Take the latency table of a policy, or usual margins and what is overridden."""
    if policy and overrides:
        raise UsageError("give either --policy or --set", hint="edit the policy")
    if policy:
        gates = dict(Policy.read(policy).gates)
        if "latency" not in gates:
            raise UsageError(
                f"{policy}: has no table latency", hint="[latency]\nttft_margin = 0.05"
            )
        found: latency.Settings = gates["latency"]
        return found
    given: dict[str, object] = {}
    for setting in overrides:
        override(given, setting)
    if not any(key.endswith("_margin") for key in given):
        given = {**_MARGINS, **given}
    table = Table(given, place="--set", prefix="latency.")
    return latency.parse(table, beside=Path.cwd(), confidence=_CONFIDENCE)


def claim(out: Path) -> None:
    """Refuse a folder that holds something already: evidence is never mixed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder", hint="choose a new one")
    out.mkdir(parents=True, exist_ok=True)
