"""Checkpoint × recipe × tier × runtime: proved possible, or refused, before any work."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from builders import recipe as recipes
from builders.bundle import fingerprint
from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.formats import Format
from builders.recipe import Calibration, Recipe
from builders.spec import KV_CACHE, Serve, Spec
from builders.tiers import Tier, tier

_KV_NAME: Final = {fmt: name for name, fmt in KV_CACHE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """An engine backend, and the version of it that the release is made for ("" : this one)."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a release will be made from, resolved; has a digest."""

    checkpoint: Checkpoint
    recipe: Recipe
    calibration: Calibration
    tier: Tier
    runtime: Runtime
    tp: int
    pp: int
    serve: Serve
    policy: Path
    channel: str

    @classmethod
    def resolve(cls, spec: Spec, checkpoint: Checkpoint) -> Self:
        """Fill every default from the checkpoint and the recipe; refusals are asked separately."""
        chosen = recipes.find(spec.quantize.recipe, beside=spec.file.parent)
        kv_cache = spec.quantize.kv_cache or chosen.kv_cache
        keep = (*chosen.keep, *spec.quantize.exclude)
        return cls(
            checkpoint=checkpoint,
            recipe=replace(chosen, kv_cache=kv_cache, keep=keep),
            calibration=spec.quantize.calibration,
            tier=tier(spec.target.tier),
            runtime=Runtime(name=spec.target.runtime, version=spec.target.runtime_version),
            tp=spec.target.tp,
            pp=spec.target.pp,
            serve=replace(spec.serve, context=spec.serve.context or checkpoint.context),
            policy=spec.policy,
            channel=spec.channel,
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one token takes: keys and values × layers × KV heads × width."""
        model = self.checkpoint
        values = 2 * model.layers * model.kv_heads * model.head_dim
        return values * self.recipe.kv_cache.bits // 8

    @property
    def digest(self) -> str:
        """SHA-256 of the plan, independent of where its files lie."""
        return fingerprint(self.as_json())

    def as_json(self) -> dict[str, object]:
        """Return the resolved plan as one JSON object; no path stands in it."""
        model, recipe = self.checkpoint, self.recipe
        return {
            "checkpoint": {
                "identity": model.identity,
                "architecture": model.architecture,
                "parameters": model.parameters,
                "weight_bytes": model.weight_bytes,
                "context": model.context,
            },
            "recipe": {
                "name": recipe.name,
                "scheme": recipe.scheme,
                "backend": recipe.backend,
                "preset": recipe.preset,
                "weights": recipe.weights.value,
                "activations": recipe.activations.value,
                "kv_cache": _KV_NAME.get(recipe.kv_cache, recipe.kv_cache.value),
                "keep": list(recipe.keep),
                "native": recipe.native_on(self.tier),
            },
            "calibration": {
                "files": [path.name for path in self.calibration.files],
                "samples": self.calibration.samples,
                "length": self.calibration.length,
                "seed": self.calibration.seed,
            },
            "target": {
                "tier": self.tier.name,
                "runtime": self.runtime.name,
                "runtime_version": self.runtime.version,
                "tp": self.tp,
                "pp": self.pp,
            },
            "serve": asdict(self.serve),
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "policy": self.policy.name,
            "channel": self.channel,
        }

    def refusals(self) -> tuple[Refusal, ...]:
        """Return every reason why this plan cannot work; empty when it can."""
        checks = (_already_quantized, _tier, _runtime, _kv_cache, _context, _parallel, _calibration)
        return tuple(refusal for check in checks for refusal in check(self))


def _already_quantized(plan: Plan) -> list[Refusal]:
    declared = plan.checkpoint.quantization
    if declared is None:
        return []
    method = declared.get("quant_method") or declared.get("quant_algo") or "some method"
    return [
        Refusal(
            f"{plan.checkpoint.path} is quantized already ({method})",
            "quantize the original BF16 checkpoint: rounding twice costs accuracy",
        )
    ]


def _tier(plan: Plan) -> list[Refusal]:
    """A GPU can always widen weights; activations need Tensor Cores that multiply their format."""
    fmt = plan.recipe.activations
    if not plan.tier.gpu or not fmt.quantized or plan.tier.is_native(fmt):
        return []
    better = [name for name, other in recipes.shipped().items() if _fits(other, plan.tier)]
    return [
        Refusal(
            f"{plan.recipe.name} needs {fmt.value.upper()} activations, which {plan.tier.name} "
            f"({plan.tier.architecture}, SM{plan.tier.sm}) cannot multiply",
            f"on {plan.tier.name} use {', '.join(better)}",
        )
    ]


def _fits(recipe: Recipe, where: Tier) -> bool:
    return not recipe.activations.quantized or where.is_native(recipe.activations)


def _runtime(plan: Plan) -> list[Refusal]:
    if plan.runtime.name == "embedded":
        return []
    if not plan.tier.gpu:
        return [
            Refusal(
                f"{plan.runtime.name} needs a GPU tier, not {plan.tier.name}",
                'target.runtime = "embedded" runs on a CPU',
            )
        ]
    return [
        Refusal(
            f"the {plan.runtime.name} runtime cannot be built by this version of enginesmith",
            'target.runtime = "embedded" works on every tier',
        )
    ]


def _kv_cache(plan: Plan) -> list[Refusal]:
    """ModelOpt calibrates E4M3, not E5M2; vLLM alone takes E5M2, under unquantized weights."""
    fmt = plan.recipe.kv_cache
    if fmt in {Format.BF16, Format.FP8}:
        return []
    return [
        Refusal(
            f"a KV cache in {fmt.value} cannot be made for the {plan.runtime.name} runtime",
            'quantize.kv_cache = "fp8" (E4M3 with calibrated scales) or "none"',
        )
    ]


def _context(plan: Plan) -> list[Refusal]:
    if plan.serve.context <= plan.checkpoint.context:
        return []
    return [
        Refusal(
            f"serve.context {plan.serve.context} is more than the model's own "
            f"{plan.checkpoint.context} positions",
            f"set serve.context to at most {plan.checkpoint.context}",
        )
    ]


def _parallel(plan: Plan) -> list[Refusal]:
    if plan.tp == plan.pp == 1:
        return []
    if plan.runtime.name == "embedded":
        return [Refusal("the embedded runtime runs on one device", "set target.tp and pp to 1")]
    found = []
    if plan.checkpoint.heads % plan.tp:
        found.append(
            Refusal(
                f"tp {plan.tp} does not divide the {plan.checkpoint.heads} attention heads",
                "choose a tp that divides them",
            )
        )
    if plan.checkpoint.layers < plan.pp:
        found.append(
            Refusal(
                f"pp {plan.pp} is more than the {plan.checkpoint.layers} layers",
                "choose a smaller pp",
            )
        )
    return found


def _calibration(plan: Plan) -> list[Refusal]:
    needed = plan.recipe.calibrated or plan.recipe.kv_cache.quantized
    if not needed or plan.calibration.files:
        return []
    return [
        Refusal(
            f"{plan.recipe.name} has static scales and needs calibration texts",
            '[quantize.calibration] files = ["texts.jsonl"], one {"text": …} a line',
        )
    ]
