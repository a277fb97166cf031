"""A policy: which gates are required and how much harm each may do, said before measuring.

A profile gives every gate its usual margins; the policy's own tables come first. Whoever tries
several candidates and ships any that passes says how many: each is then judged at a confidence at
which all of them together err as seldom as one would.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

from builders.errors import UsageError
from builders.gate import GATES, load, margins
from builders.parse import Table, read_toml

EARLY: Final = 0.999
EXAMPLE: Final = '[perplexity]\ncorpus = ["corpus.jsonl"]'


class Profile(Enum):
    """How much harm is usual to allow: FP8 and INT8 are strict, 4-bit formats are lossy."""

    STRICT = "strict"
    STANDARD = "standard"
    LOSSY = "lossy"


# Margins are shares: of perplexity, of the items, of the prompts, of the baseline's time.
MARGINS: Final[Mapping[Profile, Mapping[str, Mapping[str, float]]]] = {
    Profile.STRICT: {
        "perplexity": {"margin": 0.005},
        "accuracy": {"margin": 0.005},
        "prompts": {"margin": 0.01},
        "latency": {"ttft_margin": 0.03, "itl_margin": 0.03},
    },
    Profile.STANDARD: {
        "perplexity": {"margin": 0.01},
        "accuracy": {"margin": 0.01},
        "prompts": {"margin": 0.02},
        "latency": {"ttft_margin": 0.05, "itl_margin": 0.05},
    },
    Profile.LOSSY: {
        "perplexity": {"margin": 0.03},
        "accuracy": {"margin": 0.02},
        "prompts": {"margin": 0.03},
        "latency": {"ttft_margin": 0.10, "itl_margin": 0.10},
    },
}


# What a gate's table must name, where nothing is measured and it does not matter.
_LEAST: Final[Mapping[str, Mapping[str, object]]] = {
    "perplexity": {"corpus": ()},
    "accuracy": {"task": "any"},
    "prompts": {},
    "latency": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What to take for granted when the power is planned; None leaves it to the profile.

    Decides no verdict: only what is said, before any work, of what the gates can certify.
    """

    flips: float | None
    windows: float | None
    pairs: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The gates that a release must pass, each with its own settings, at one confidence.

    ``candidates`` is how many may be tried against one baseline; they share what may go wrong.
    ``early`` is the confidence at which a first look at few units may fail one; at 1 none is taken.
    """

    name: str
    path: Path
    description: str
    profile: Profile
    candidates: int
    confidence: float
    early: float
    assumed: Assumptions
    gates: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a policy file: a table for each gate that is required, one at least."""
        return cls.of(read_toml(path), path)

    @classmethod
    def usual(cls, gates: Iterable[str], profile: Profile = Profile.STANDARD) -> Self:
        """Return the policy of a profile, for results that come without one of their own."""
        named = {name: dict(_LEAST[name]) for name in gates}
        return cls.of({"profile": profile.value, **named}, Path(f"{profile.value} profile"))

    @classmethod
    def of(cls, data: Mapping[str, object], path: Path) -> Self:
        """Read a policy's tables; ``path`` says where they stand."""
        profile = Table(data, place=str(path)).choice("profile", Profile, Profile.STANDARD)
        with Table({**data, **_filled(data, profile)}, place=str(path)) as table:
            table.text("profile", "")
            confidence = table.number("confidence", 0.95)
            if not 0.5 < confidence < 1:
                raise UsageError(
                    f"{path}: confidence = {confidence} is not between 0.5 and 1",
                    hint="0.95 is usual: one bad candidate in twenty passes at the margin",
                )
            candidates = table.whole("candidates", 1, least=1)
            tables = {name: table.table(name) for name in GATES}
            gates = tuple(
                (name, _parse(name, tables[name], path, shared(confidence, candidates)))
                for name in GATES
                if name in data
            )
            policy = cls(
                name=table.text("name", path.stem),
                path=path,
                description=table.text("description", ""),
                profile=profile,
                candidates=candidates,
                confidence=confidence,
                early=_early(table.table("early")),
                assumed=_assumptions(table.table("power")),
                gates=gates,
            )
        if not gates:
            raise UsageError(f"{path}: requires no gate", hint=f"add a table, such as {EXAMPLE}")
        return policy

    @property
    def each(self) -> float:
        """The confidence at which each candidate is judged."""
        return shared(self.confidence, self.candidates)

    def check(self) -> None:
        """Refuse what cannot be measured, gate by gate, before any work."""
        for name, settings in self.gates:
            load(name).check(settings)


def shared(confidence: float, candidates: int) -> float:
    """Return the confidence for each of so many candidates, of which any may be shipped.

    Bonferroni: of ten candidates that lie at the margin one passes in 40 of 100 trials at 95 %
    each, in 5 at 99.5 %.
    """
    return 1 - (1 - confidence) / candidates if candidates > 1 else confidence


def _early(table: Table) -> float:
    with table:
        found = table.number("confidence", EARLY)
        if not 0.99 <= found <= 1:
            raise UsageError(
                f"{table.place}: early.confidence = {found} is not between 0.99 and 1",
                hint="0.999 is usual: it fails one harmless candidate in a thousand; 1 takes no"
                " early look",
            )
        return found


def _assumptions(table: Table) -> Assumptions:
    with table:
        return Assumptions(
            flips=margins.optional(table, "flips"),
            windows=margins.optional(table, "windows"),
            pairs=margins.optional(table, "pairs"),
        )


def _filled(data: Mapping[str, object], profile: Profile) -> dict[str, object]:
    """Return the gates' tables with the profile's margins where they name none of their own.

    A gate of several measures judges those that are named: one margin of its own names them all.
    """
    found: dict[str, object] = {}
    for name, usual in MARGINS[profile].items():
        own = data.get(name)
        if isinstance(own, Mapping):
            chosen = len(usual) > 1 and any(key.endswith("margin") for key in own)
            found[name] = dict(own) if chosen else {**usual, **own}
    return found


def _parse(name: str, table: Table, path: Path, confidence: float) -> object:
    """Let a gate read its table; what it finds wrong in it names the file."""
    try:
        return load(name).parse(table, beside=path.parent, confidence=confidence)
    except UsageError as error:
        if str(path) in str(error):
            raise
        raise UsageError(f"{path}: {error}", hint=error.hint) from error
