"""The rules of the ledger, read from `support.toml` and asked one lane at a time."""

from dataclasses import dataclass
from functools import cache
from typing import Final

from builders.formats import Format
from builders.ledger.algorithms import Algorithm, algorithm
from builders.ledger.releases import entries
from builders.ledger.version import Version
from builders.parse import Table
from builders.recipe import Recipe
from builders.tiers import Tier

_MAKER: Final = {
    "tensorrt": "TensorRT-LLM",
    "llmapi": "TensorRT-LLM",
    "vllm": "vLLM",
    "embedded": "the embedded loader",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why one lane cannot run a recipe; ``hint`` is empty where the remedy depends on the rest."""

    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One listed support: these algorithms or cache formats, on these SMs, in these versions."""

    lane: str
    names: frozenset[str]
    sm: tuple[range, ...]
    since: str
    until: str
    weight_only: bool
    source: str

    def lists(self, lane: str, name: str, tier: Tier) -> bool:
        """Whether the rule speaks of this algorithm or format on this tier, at any version."""
        return self.lane == lane and name in self.names and any(tier.sm in sms for sms in self.sm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """A reason that a source gives for what is not listed; an empty field matches everything."""

    lanes: tuple[str, ...]
    algorithms: tuple[str, ...]
    caches: tuple[str, ...]
    sm: tuple[range, ...]
    reason: str
    hint: str
    source: str

    def explains(self, lane: str, tier: Tier, *, algorithm: str = "", cache: str = "") -> bool:
        """Whether this is the reason for an algorithm, or for a KV cache format, on a tier."""
        if self.lanes and lane not in self.lanes:
            return False
        if self.sm and not any(tier.sm in sms for sms in self.sm):
            return False
        if cache:
            return cache in self.caches
        return not self.caches and (not self.algorithms or algorithm in self.algorithms)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one lane says to a recipe: an obstacle to its weights, one to its KV cache, or none."""

    weights: Obstacle | None
    cache: Obstacle | None

    @property
    def runs(self) -> bool:
        """Whether nothing stands in the way."""
        return self.weights is None and self.cache is None


@cache
def ask(recipe: Recipe, tier: Tier, lane: str, version: Version | None) -> Finding:
    """Ask one lane of a runtime whether it runs a recipe on a tier."""
    for why in whys():
        if why.sm and not why.algorithms and why.explains(lane, tier):
            return Finding(_fill(why, recipe, "", tier), None)
    declared = algorithm(recipe)
    if declared is None:
        return Finding(_unknown(recipe), None)
    return Finding(_weights(recipe, declared, tier, lane, version), _cache(recipe, tier, lane))


@cache
def runs() -> tuple[Rule, ...]:
    """Return what is listed for weights and activations."""
    return tuple(_rule(table, "algorithms") for table in entries("support.toml", "runs"))


@cache
def caches() -> tuple[Rule, ...]:
    """Return what is listed for KV caches."""
    return tuple(_rule(table, "formats") for table in entries("support.toml", "cache"))


def reaches(lane: str, tier: Tier) -> bool:
    """Whether a lane runs anything at all on a tier, in any version."""
    return any(rule.lane == lane and any(tier.sm in sms for sms in rule.sm) for rule in runs())


@cache
def whys() -> tuple[Why, ...]:
    """Return the reasons, in the order in which they are tried."""
    return tuple(_why(table) for table in entries("support.toml", "why"))


def _weights(
    recipe: Recipe, declared: Algorithm, tier: Tier, lane: str, version: Version | None
) -> Obstacle | None:
    name, where = declared.name, _where(tier)
    if lane == "tensorrt" and not declared.engine_checkpoint:
        reason = f"no TensorRT-LLM checkpoint of {recipe.name} was ever exported for trtllm-build"
        return Obstacle(reason, "")
    listed = [rule for rule in runs() if rule.lists(lane, name, tier)]
    if any(_reached(rule, version) for rule in listed):
        return _emulated(recipe, tier, lane)
    if listed:
        return _version_apart(listed, f"{name} runs on {where}", version)
    for why in whys():
        if why.algorithms and why.explains(lane, tier, algorithm=name):
            return _fill(why, recipe, name, tier)
    reason = f"{recipe.name} declares {name}, for which {_MAKER[lane]} lists no kernel on {where}"
    return Obstacle(reason, "")


def _version_apart(listed: list[Rule], what: str, version: Version | None) -> Obstacle:
    """Say from which version on, or up to which, something runs."""
    began = [rule.since for rule in listed if rule.since and not rule.until]
    if began:
        since = min(began, key=Version.parse)
        reason = f"{what} from version {since} on, not in {version}"
        return Obstacle(reason, f'target.runtime_version = "{since}" or newer')
    until = max((rule.until for rule in listed), key=Version.parse)
    reason = f"{what} up to version {until}, not in {version}"
    return Obstacle(reason, f'target.runtime_version = "{until}"')


def _emulated(recipe: Recipe, tier: Tier, lane: str) -> Obstacle | None:
    """A GPU can always widen weights; activations need Tensor Cores that multiply their format."""
    fmt = recipe.activations
    if lane != "embedded" or not tier.gpu or not fmt.quantized or tier.is_native(fmt):
        return None
    where = f"{tier.name} ({tier.architecture}, SM{tier.sm})"
    reason = f"{recipe.name} needs {fmt.value.upper()} activations, which {where} cannot multiply"
    return Obstacle(reason, "")


def _cache(recipe: Recipe, tier: Tier, lane: str) -> Obstacle | None:
    fmt = str(recipe.kv_cache.value)
    for rule in caches():
        if rule.lists(lane, fmt, tier) and (not rule.weight_only or _weight_only(recipe)):
            return None
    for why in whys():
        if why.explains(lane, tier, cache=fmt):
            return _fill(why, recipe, fmt, tier)
    reason = f"{_MAKER[lane]} lists no KV cache in {fmt} on {_where(tier)}"
    others = "" if fmt == "fp8" else '"fp8" (E4M3) or '
    return Obstacle(reason, f'quantize.kv_cache = {others}"none"')


def _where(tier: Tier) -> str:
    return f"{tier.name} (SM{tier.sm})" if tier.gpu else tier.name


def _weight_only(recipe: Recipe) -> bool:
    """Whether the checkpoint is none of those that vLLM calls fp8 checkpoints."""
    return not recipe.activations.quantized and recipe.weights in {
        Format.BF16, Format.FP16, Format.INT4, Format.INT8, Format.NF4
    }  # fmt: skip


def _reached(rule: Rule, version: Version | None) -> bool:
    if version is None:
        return True
    begun = not rule.since or version >= Version.parse(rule.since)
    return begun and (not rule.until or version <= Version.parse(rule.until))


def _fill(why: Why, recipe: Recipe, name: str, tier: Tier) -> Obstacle:
    words = {
        "recipe": recipe.name,
        "algorithm": name,
        "tier": tier.name,
        "architecture": tier.architecture,
        "sm": tier.sm,
    }
    return Obstacle(why.reason.format(**words), why.hint.format(**words))


def _unknown(recipe: Recipe) -> Obstacle:
    return Obstacle(
        f"{recipe.name}: nobody wrote down what the quantizer {recipe.backend!r} declares for "
        f"{recipe.weights.value} weights",
        "use a shipped recipe (enginesmith recipes), or add it to builders/ledger/algorithms.toml",
    )


def _rule(table: Table, names: str) -> Rule:
    with table:
        return Rule(
            lane=table.text("lane"),
            names=frozenset(table.texts(names)),
            sm=_ranges(table.texts("sm")),
            since=table.text("since", ""),
            until=table.text("until", ""),
            weight_only=table.flag("weight_only", default=False),
            source=table.text("source"),
        )


def _why(table: Table) -> Why:
    with table:
        return Why(
            lanes=table.texts("lanes"),
            algorithms=table.texts("algorithms", ()),
            caches=table.texts("caches", ()),
            sm=_ranges(table.texts("sm", ())),
            reason=table.text("reason"),
            hint=table.text("hint", ""),
            source=table.text("source"),
        )


def _ranges(texts: tuple[str, ...]) -> tuple[range, ...]:
    """Read compute capabilities: ``90``, or ``100-103`` with both ends."""
    pairs = (text.partition("-") for text in texts)
    return tuple(range(int(low), int(high or low) + 1) for low, _, high in pairs)
