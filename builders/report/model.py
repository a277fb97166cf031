"""What a report is told: finished facts, samples and verdicts. Measures and decides nothing."""

from dataclasses import dataclass

from builders.verdict import Outcome, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a release: the key of what went in, whether it was reused, its time here."""

    name: str
    key: str
    cached: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of the weights before and after quantization."""

    baseline_bytes: int
    candidate_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What one side's load run saw; order does not matter, empty means not measured.

    ``ttft_ms`` and ``tokens_per_second`` have a value per request, ``itl_ms`` one per later token.
    """

    ttft_ms: tuple[float, ...] = ()
    itl_ms: tuple[float, ...] = ()
    tokens_per_second: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The same load on both sides."""

    baseline: Samples
    candidate: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A candidate that was judged against the same baseline by the same policy, and what came."""

    candidate: str
    recipe: str
    outcome: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One item that the two sides answer differently; ``kind`` is lost, won or other."""

    gate: str
    unit: str
    group: str
    kind: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed in one gate: all of it counted, the first of it shown."""

    gate: str
    lost: int
    won: int
    other: int
    shown: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One subject's items; ``before`` and ``after`` are the shares that are right."""

    gate: str
    name: str
    items: int
    before: float
    after: float
    lost: int
    won: int
    p: float
    alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far opinions lie apart along a row: (place, nats), of the candidate and of the floor."""

    candidate: tuple[tuple[int, float], ...]
    floor: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a report says about one release candidate.

    ``facts`` (label, value) and ``versions`` (name, version) are shown in the order given.
    ``required`` names the gates that the policy demands: one without a verdict cannot pass.
    ``attempts`` are all candidates so far, this one last; the policy allows for ``candidates``.
    """

    title: str
    channel: str
    verdicts: tuple[Verdict, ...]
    policy: str
    profile: str = ""
    confidence: float = 0.95
    candidates: int = 1
    attempts: tuple[Attempt, ...] = ()
    required: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sizes: Sizes | None = None
    latency: Latency | None = None
    changes: tuple[Changes, ...] = ()
    subjects: tuple[Subject, ...] = ()
    divergence: Divergence | None = None
    stages: tuple[Stage, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The required gates that have no verdict, in the policy's order."""
        judged = [verdict.gate for verdict in self.verdicts]
        return tuple(gate for gate in self.required if not any(_answers(gate, v) for v in judged))

    @property
    def tried(self) -> int:
        """How many candidates were judged; one that could not be measured was not."""
        return len({attempt.candidate for attempt in self.attempts if attempt.outcome != "void"})

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts; a required gate that is missing counts as inconclusive."""
        unknown = [Outcome.INCONCLUSIVE] if self.missing else []
        return worst([verdict.outcome for verdict in self.verdicts] + unknown)


def _answers(required: str, gate: str) -> bool:
    # One gate may give several verdicts: "latency/ttft" and "latency/itl" answer "latency".
    return gate == required or gate.startswith(tuple(required + mark for mark in "/.: _"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """Where the candidate ended up: known only once the bundle that holds the page is sealed."""

    release: str | None = None
    promoted: bool = False
    bundle: str = ""
