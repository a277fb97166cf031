"""The compatibility ledger: which recipe runs on which tier, in which runtime, from which version.

All of it is data with sources (`*.toml` beside this file), read on first use. What no source lists
is refused, and a refusal says why and what to do instead.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from builders import recipe as recipes
from builders.errors import Refusal
from builders.ledger.algorithms import Algorithm, algorithm
from builders.ledger.releases import (
    RUNTIMES,
    Advisory,
    Lane,
    Release,
    advisories,
    lanes,
    minimum,
    newest,
    release,
    releases,
    triton_image,
    trtllm_image,
    unsafe,
    usable_bytes,
    version_of,
    walked,
)
from builders.ledger.rules import Finding, Obstacle, ask, reaches
from builders.ledger.version import Version
from builders.recipe import Recipe
from builders.tiers import TIERS, Tier

__all__ = [
    "RUNTIMES", "Advisory", "Algorithm", "Lane", "Release", "Row", "Version", "advisories",
    "algorithm", "choose_lane", "lane", "matrix", "minimum", "newest", "release", "releases",
    "support", "triton_image", "trtllm_image", "unsafe", "usable_bytes", "walked",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the matrix: a combination, the lanes that take it, or why none does."""

    tier: str
    recipe: str
    scheme: str
    runtime: str
    version: str
    lanes: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    def as_json(self) -> dict[str, object]:
        """Return the row as one JSON object."""
        return {
            "tier": self.tier,
            "recipe": self.recipe,
            "scheme": self.scheme,
            "runtime": self.runtime,
            "version": self.version,
            "lanes": list(self.lanes),
            "refusals": [{"reason": r.reason, "hint": r.hint} for r in self.refusals],
        }


def lane(runtime: str, version: str) -> tuple[str, ...]:
    """Return the lanes that this version of a runtime has, the one that leads first.

    Of TensorRT-LLM, ``tensorrt`` leads up to 1.2.1 and ``llmapi`` after it; the other runtimes
    are their own lane. A version older than the ledger has none.
    """
    return tuple(one.name for one in _lanes(runtime, version))


def support(
    recipe: Recipe, tier: Tier, runtime: str, version: str, *, only: str = ""
) -> tuple[Refusal, ...]:
    """Return why a recipe cannot run there in any lane, or in lane ``only``; empty when it can."""
    if not tier.gpu and not any(
        reaches(one.name, tier) for one in lanes() if one.runtime == runtime
    ):
        return (
            Refusal(
                f"{runtime} needs a GPU tier, not {tier.name}",
                'target.runtime = "embedded" runs on a CPU',
            ),
        )
    open_lanes = [one for one in _lanes(runtime, version) if only in {"", one.name}]
    if not open_lanes:
        return _no_lane(runtime, version, only)
    found = [ask(recipe, tier, one.name, version_of(runtime, version)) for one in open_lanes]
    if any(finding.runs for finding in found):
        return ()
    instead = _instead(recipe, tier, runtime, version)
    return tuple(Refusal(one.reason, one.hint or instead) for one in _causes(found))


def _causes(found: list[Finding]) -> list[Obstacle]:
    """Keep what the user must change: where a lane takes the weights, only its KV cache.

    What has a remedy of its own comes first.
    """
    nearest = [one.cache for one in found if one.weights is None and one.cache]
    if nearest:
        return list(dict.fromkeys(nearest))
    causes = dict.fromkeys(one.weights for one in found if one.weights)
    if all(one.cache for one in found):
        causes |= dict.fromkeys(one.cache for one in found[:1] if one.cache)
    return sorted(causes, key=lambda one: not one.hint)


def choose_lane(recipe: Recipe, tier: Tier, runtime: str, version: str) -> str:
    """Return the lane a plan takes: the first that can run the recipe, else the one that leads."""
    names = lane(runtime, version)
    able = (name for name in names if not support(recipe, tier, runtime, version, only=name))
    return next(able, names[0] if names else "")


def matrix(
    shipped: Iterable[Recipe] | None = None, tiers: Iterable[Tier] = tuple(TIERS.values())
) -> Iterator[Row]:
    """Walk tier × recipe × runtime × version, every combination once, in that order."""
    chosen = _shipped() if shipped is None else tuple(shipped)
    for tier in tiers:
        for one in chosen:
            for runtime in RUNTIMES:
                for version in walked(runtime):
                    yield _row(one, tier, runtime, version)


def _row(recipe: Recipe, tier: Tier, runtime: str, version: str) -> Row:
    names = lane(runtime, version)
    return Row(
        tier=tier.name,
        recipe=recipe.name,
        scheme=recipe.scheme,
        runtime=runtime,
        version=version,
        lanes=tuple(n for n in names if not support(recipe, tier, runtime, version, only=n)),
        refusals=support(recipe, tier, runtime, version),
    )


@cache
def _lanes(runtime: str, version: str) -> tuple[Lane, ...]:
    at = version_of(runtime, version)
    having = (one for one in reversed(lanes()) if one.runtime == runtime and one.has(at))
    return tuple(sorted(having, key=lambda one: not one.leads(at)))


def _no_lane(runtime: str, version: str, only: str) -> tuple[Refusal, ...]:
    """Say why a version lacks the lane asked for, or every lane of its runtime."""
    at = version_of(runtime, version)
    wanted = [one for one in lanes() if one.runtime == runtime and only in {"", one.name}]
    if not wanted:
        names = ", ".join(one.name for one in lanes() if one.runtime == runtime)
        return (Refusal(f"{runtime} has no lane {only}", f"its lanes are {names}"),)
    return tuple(Refusal(one.why_not.format(version=at), one.remedy) for one in wanted)


@cache
def _instead(recipe: Recipe, tier: Tier, runtime: str, version: str) -> str:
    """Name recipes that do run there, else a runtime that takes this one, else one that has any."""
    if fitting := _fitting(tier, runtime, version):
        return f"on {tier.name} use {', '.join(fitting)}"
    for other in RUNTIMES:
        if any(ask(recipe, tier, one, version_of(other, "")).runs for one in lane(other, "")):
            return f'{recipe.name} runs on {tier.name} with target.runtime = "{other}"'
    for other in RUNTIMES:
        if fitting := _fitting(tier, other, ""):
            return f'on {tier.name} use {", ".join(fitting)} with target.runtime = "{other}"'
    return "choose another tier"


@cache
def _fitting(tier: Tier, runtime: str, version: str) -> tuple[str, ...]:
    at = version_of(runtime, version)
    names = lane(runtime, version)
    return tuple(
        recipe.name
        for recipe in _shipped()
        if any(ask(recipe, tier, name, at).runs for name in names)
    )


@cache
def _shipped() -> tuple[Recipe, ...]:
    return tuple(recipes.shipped().values())
