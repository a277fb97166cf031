"""Walk the decision tree from a tier to a recipe, and say why at every step.

The tree: prefer formats that the tier multiplies natively, floating point before integers, eight
bits before four where quality counts; keep the KV cache in FP8 from long contexts on; when memory
is short take the next smaller recipe or more GPUs. Only shipped recipes are recommended, and only
where the ledger knows a runtime for them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from builders import ledger
from builders import recipe as recipes
from builders.capacity import TPS, Capacity
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, Refusal, UsageError
from builders.formats import Format
from builders.ledger.tree import TREE, VIRTUE, Quality
from builders.ledger.version import Version
from builders.recipe import Recipe
from builders.spec import KV_CACHE
from builders.tiers import Tier

LONG: Final = 32768  # tokens of context from which a 16-bit KV cache outgrows everything else
_DIAL: Final = {fmt: name for name, fmt in KV_CACHE.items()}


_PRODUCTION: Final = ("trtllm", "vllm")
_FALLBACK: Final = ("vllm", "embedded")  # where TensorRT-LLM has no kernels


@dataclass(frozen=True, slots=True)
class Step:
    """One decision: what it is about, what was chosen, and why."""

    about: str
    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """A recipe that was not chosen, and why not."""

    recipe: str
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to put into `release.toml`, every step to it, and what was left aside."""

    recipe: Recipe
    runtime: str
    version: str
    lane: str
    capacity: Capacity
    why: tuple[Step, ...]
    alternatives: tuple[Alternative, ...]

    @property
    def settings(self) -> dict[str, str | int]:
        """The keys of `release.toml` that carry the recommendation out."""
        keys: dict[str, str | int] = {
            "quantize.recipe": self.recipe.name,
            "quantize.kv_cache": _DIAL.get(self.recipe.kv_cache, self.recipe.kv_cache.value),
            "target.tier": self.capacity.tier.name,
            "target.runtime": self.runtime,
            "target.runtime_version": self.version,
            "target.tp": self.capacity.tp,
            "serve.context": self.capacity.context,
            "serve.concurrency": self.capacity.concurrency,
        }
        return {key: value for key, value in keys.items() if value}

    def as_json(self) -> dict[str, object]:
        """Return the recommendation as one JSON object."""
        return {
            "recipe": self.recipe.name,
            "scheme": self.recipe.scheme,
            "kv_cache": self.settings["quantize.kv_cache"],
            "runtime": self.runtime,
            "version": self.version,
            "lane": self.lane,
            "tp": self.capacity.tp,
            "settings": self.settings,
            "why": [{"about": s.about, "choice": s.choice, "reason": s.reason} for s in self.why],
            "alternatives": [
                {"recipe": one.recipe, "why_not": one.why_not} for one in self.alternatives
            ],
            "capacity": self.capacity.as_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The question, kept together while the tree is walked."""

    checkpoint: Checkpoint
    tier: Tier
    context: int
    concurrency: int
    quality: Quality

    @property
    def wishes(self) -> tuple[str, ...]:
        return TREE[self.tier.architecture][self.quality]

    @property
    def caches(self) -> tuple[Format, ...]:
        """KV cache formats to try, best first; the last is what must do when nothing else can."""
        if self.quality is Quality.COMPACT:
            return Format.NVFP4, Format.FP8, Format.BF16
        if self.quality is Quality.STRICT and self.context < LONG:
            return (Format.BF16,)
        return Format.FP8, Format.BF16


def recommend(
    checkpoint: Checkpoint, tier: Tier, context: int, concurrency: int, quality: str = "balanced"
) -> Recommendation:
    """Recommend recipe, KV cache, runtime and GPUs; a `PlanError` says why nothing can work."""
    asked = _Asked(
        checkpoint=checkpoint,
        tier=tier,
        context=context,
        concurrency=concurrency,
        quality=_quality(quality),
    )
    _refuse(asked)
    rejected: dict[str, str] = {}
    tight: Capacity | None = None
    for recipe, runtime, version in _candidates(asked, rejected):
        capacity = _placed(asked, recipe, runtime)
        if capacity.fits is not False:
            return _recommended(asked, capacity, (runtime, version), rejected)
        rejected[recipe.name] = capacity.refusals()[0].reason
        tight = capacity
    if tight:
        raise PlanError(tight.refusals())
    hint = "choose another tier, or a recipe of your own (enginesmith matrix-of-support)"
    reasons = (Refusal(f"{name} on {tier.name}: {why}", hint) for name, why in rejected.items())
    raise PlanError(tuple(reasons))


def _quality(name: str) -> Quality:
    try:
        return Quality(name)
    except ValueError:
        known = ", ".join(quality.value for quality in Quality)
        raise UsageError(f"unknown quality {name!r}", hint=f"known: {known}") from None


def _refuse(asked: _Asked) -> None:
    model = asked.checkpoint
    if asked.tier.architecture not in TREE:
        raise UsageError(f"no decision is written down for {asked.tier.architecture} GPUs")
    if model.quantization is not None:
        hint = "give the original checkpoint: rounding twice costs accuracy"
        raise PlanError((Refusal(f"{model.path} is quantized already", hint),))
    if asked.context > model.context:
        reason = f"a context of {asked.context} is more than the model's own {model.context}"
        raise PlanError((Refusal(reason, f"ask for at most {model.context}"),))


def _candidates(asked: _Asked, rejected: dict[str, str]) -> Iterator[tuple[Recipe, str, str]]:
    """Yield recipe, runtime and version, best first; note in ``rejected`` what falls out.

    A long context takes a quantized KV cache before it takes the better recipe.
    """
    shipped = recipes.shipped().values()
    strict_cache = asked.context >= LONG
    found: list[tuple[Recipe, str, str]] = []
    for wish in asked.wishes:
        named = [one for one in shipped if _declares(one) == wish]
        if not named:
            rejected[wish] = "no shipped recipe makes it"
        for recipe in sorted(named, key=_scope):
            places = _places(recipe, asked)
            if places:
                found.append(places)
            else:
                rejected[recipe.name] = _first_reason(recipe, asked)
    quantized = [one for one in found if one[0].kv_cache.quantized]
    for one in found:
        if strict_cache and quantized and one not in quantized:
            rejected[one[0].name] = f"no quantized KV cache for it in {one[1]}, at this context"
    yield from quantized if strict_cache and quantized else found


def _declares(recipe: Recipe) -> str:
    found = ledger.algorithm(recipe)
    return found.name if found else ""


def _scope(recipe: Recipe) -> tuple[bool, int]:
    """Put calibrated recipes first, and those that quantize the whole model before parts of it."""
    found = ledger.algorithm(recipe)
    return not recipe.calibrated, len(found.only) if found else 0


def _runtimes(tier: Tier) -> tuple[str, ...]:
    return _FALLBACK if tier.architecture in {"Turing", "host"} else _PRODUCTION


def _versions(runtime: str) -> tuple[str, ...]:
    """The general release first, then the candidates that follow it, oldest first."""
    general = ledger.newest(runtime)
    if not general:
        return ("",)
    later = (v for v in ledger.walked(runtime) if Version.parse(v) > Version.parse(general))
    return general, *sorted(later, key=Version.parse)


def _places(recipe: Recipe, asked: _Asked) -> tuple[Recipe, str, str] | None:
    """Find the best KV cache, then the first runtime and version that take both."""
    for cache in asked.caches:
        dialled = replace(recipe, kv_cache=cache)
        for runtime in _runtimes(asked.tier):
            for version in _versions(runtime):
                if not ledger.support(dialled, asked.tier, runtime, version):
                    return dialled, runtime, version
    return None


def _first_reason(recipe: Recipe, asked: _Asked) -> str:
    dialled = replace(recipe, kv_cache=asked.caches[-1])
    runtime = _runtimes(asked.tier)[0]
    return ledger.support(dialled, asked.tier, runtime, ledger.newest(runtime))[0].reason


def _placed(asked: _Asked, recipe: Recipe, runtime: str) -> Capacity:
    """Give the recipe the fewest GPUs that hold it; the embedded runtime has one device."""
    alone = Capacity.of(asked.checkpoint, recipe, asked.tier, asked.context, asked.concurrency)
    if runtime == "embedded":
        return replace(alone, hosts=(1,))
    return replace(alone, tp=alone.suggested_tp or max(TPS))


def _recommended(
    asked: _Asked, capacity: Capacity, where: tuple[str, str], rejected: Mapping[str, str]
) -> Recommendation:
    recipe, (runtime, version) = capacity.recipe, where
    lane = ledger.choose_lane(recipe, asked.tier, runtime, version)
    return Recommendation(
        recipe=recipe,
        runtime=runtime,
        version=version,
        lane=lane,
        capacity=capacity,
        why=tuple(_why(asked, capacity, (runtime, version, lane))),
        alternatives=tuple(_alternatives(asked, recipe, where, rejected)),
    )


def _why(asked: _Asked, capacity: Capacity, where: tuple[str, str, str]) -> Iterator[Step]:
    recipe, tier = capacity.recipe, asked.tier
    native = sorted(fmt.value for fmt in tier.native)
    yield Step("tier", tier.name, f"{tier.architecture} multiplies {', '.join(native)} natively")
    virtue = VIRTUE.get(_declares(recipe), recipe.summary)
    yield Step("recipe", f"{recipe.name} ({recipe.scheme})", virtue)
    yield Step(
        "KV cache", _DIAL.get(recipe.kv_cache, recipe.kv_cache.value), _cache_reason(asked, recipe)
    )
    yield Step("runtime", " ".join(where[:2]).strip(), _runtime_reason(*where))
    yield Step("GPUs", f"{capacity.tp} × {tier.name}", _room(capacity))
    yield Step(
        "proof",
        "the gates",
        "perplexity, accuracy and your own prompts against the original, before it is promoted",
    )


def _cache_reason(asked: _Asked, recipe: Recipe) -> str:
    if not recipe.kv_cache.quantized and asked.context >= LONG:
        return "this runtime has no quantized KV cache on this tier; at this context it is missed"
    if not recipe.kv_cache.quantized:
        return f"below {LONG:,} tokens 16 bits cost little, and attention compounds their errors"
    if recipe.kv_cache is Format.NVFP4:
        return "the smallest cache: 4.5 bits a value"
    size = "from 32K tokens on the cache is the largest lever" if asked.context >= LONG else "safe"
    return f"half the bytes of every cached token; {size}. E4M3 with calibrated scales, not E5M2"


def _runtime_reason(runtime: str, version: str, lane: str) -> str:
    if runtime == "embedded":
        return "the only runtime that takes this recipe on this tier"
    if runtime == "vllm":
        return "TensorRT-LLM does not take this recipe on this tier"
    image = ledger.triton_image(version) or ledger.trtllm_image(version)
    form = "compiled engines" if lane == "tensorrt" else "the LLM API loads the checkpoint"
    general = Version.parse(version).stable
    state = (
        "the newest general release" if general else "a release candidate: no general one has it"
    )
    return f"{state}; {form}; {image}"


def _room(capacity: Capacity) -> str:
    if capacity.max_concurrency is None:
        return "host memory is not planned"
    gib = 1 << 30
    return (
        f"{capacity.gpu_weight_bytes / gib:.1f} GiB of weights and room for "
        f"{capacity.max_concurrency} requests of {capacity.context:,} tokens, "
        f"{capacity.concurrency} asked"
    )


def _alternatives(
    asked: _Asked, chosen: Recipe, where: tuple[str, str], rejected: Mapping[str, str]
) -> Iterator[Alternative]:
    for name, why in rejected.items():
        yield Alternative(name, why)
    for name, other in recipes.shipped().items():
        if name == chosen.name or name in rejected:
            continue
        refused = ledger.support(other, asked.tier, *where)
        if refused:
            yield Alternative(name, refused[0].reason)
        elif _declares(other) in asked.wishes:
            yield Alternative(name, f"possible, but {chosen.name} comes first for this quality")
        else:
            yield Alternative(name, f"runs, but is not what {asked.tier.architecture} is best at")
