"""Checkpoint × recipe × tier × runtime: proved possible, or refused, before any work."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from builders import ledger
from builders import recipe as recipes
from builders.autopsy import recognize
from builders.bundle import fingerprint
from builders.capacity import Capacity
from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.recipe import AS_IT_IS, Calibration, Memory, Recipe
from builders.spec import KV_CACHE, Serve, Spec
from builders.tiers import Tier, tier

_KV_NAME: Final = {fmt: name for name, fmt in KV_CACHE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """An engine backend, the version that the release is made for, and its lane."""

    name: str
    version: str
    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a release will be made from, resolved; has a digest.

    ``memory`` is how the model is held while it is quantized, which changes nothing of what it is.
    """

    checkpoint: Checkpoint
    baseline: Checkpoint
    recipe: Recipe
    calibration: Calibration
    memory: Memory
    tier: Tier
    runtime: Runtime
    tp: int
    pp: int
    serve: Serve
    policy: Path
    channel: str

    @classmethod
    def resolve(
        cls, spec: Spec, checkpoint: Checkpoint, baseline: Checkpoint | None = None
    ) -> Self:
        """Fill every default from the checkpoint and the recipe; refusals are asked separately.

        The baseline of a checkpoint that we quantize is itself; one that came quantized needs its
        original.
        """
        if spec.quantize.recipe == AS_IT_IS:
            chosen = recognize(checkpoint).recipe
        else:
            chosen = recipes.find(spec.quantize.recipe, beside=spec.file.parent)
        kv_cache = spec.quantize.kv_cache or chosen.kv_cache
        keep = (*chosen.keep, *spec.quantize.exclude)
        recipe = replace(chosen, kv_cache=kv_cache, keep=keep)
        where, name = tier(spec.target.tier), spec.target.runtime
        version = spec.target.runtime_version or ledger.newest(name)
        lane = spec.target.lane or ledger.choose_lane(recipe, where, name, version)
        return cls(
            checkpoint=checkpoint,
            baseline=baseline or checkpoint,
            recipe=recipe,
            calibration=spec.quantize.calibration,
            memory=spec.quantize.memory,
            tier=where,
            runtime=Runtime(name=name, version=version, lane=lane),
            tp=spec.target.tp,
            pp=spec.target.pp,
            serve=replace(spec.serve, context=spec.serve.context or checkpoint.context),
            policy=spec.policy,
            channel=spec.channel,
        )

    @property
    def imported(self) -> bool:
        """Whether the checkpoint came quantized and is released as it is."""
        return self.recipe.name == AS_IT_IS

    @property
    def capacity(self) -> Capacity:
        """What the load takes of the tier's memory."""
        return Capacity.of(
            self.checkpoint,
            self.recipe,
            self.tier,
            self.serve.context,
            self.serve.concurrency,
            tp=self.tp,
            pp=self.pp,
        )

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
            "baseline": self.baseline.identity,
            "calibration": {
                "files": [path.name for path in self.calibration.files],
                "weights": list(self.calibration.weights),
                "samples": self.calibration.samples,
                "length": self.calibration.length,
                "seed": self.calibration.seed,
            },
            "target": {
                "tier": self.tier.name,
                "runtime": self.runtime.name,
                "runtime_version": self.runtime.version,
                "lane": self.runtime.lane,
                "tp": self.tp,
                "pp": self.pp,
            },
            "serve": asdict(self.serve),
            "capacity": self.capacity.as_json(),
            "policy": self.policy.name,
            "channel": self.channel,
        }

    def refusals(self) -> tuple[Refusal, ...]:
        """Return every reason why this plan cannot work; empty when it can."""
        checks = (
            _quantized_already,
            _support,
            _context,
            _parallel,
            _calibration,
            _capacity,
        )
        return tuple(refusal for check in checks for refusal in check(self))


def _quantized_already(plan: Plan) -> list[Refusal]:
    declared = plan.checkpoint.quantization
    if plan.imported:
        if declared is None:
            return [
                Refusal(
                    f"{plan.checkpoint.path} is not quantized, so it cannot be taken as it is",
                    "choose a recipe: enginesmith recipes lists them",
                )
            ]
        if plan.baseline is plan.checkpoint:
            return [
                Refusal(
                    f"{plan.checkpoint.path} came quantized, so its original is needed to judge it",
                    '[baseline] path = "…", or hub_id and revision, of the unquantized checkpoint',
                )
            ]
        return []
    if declared is None:
        return []
    method = declared.get("quant_method") or declared.get("quant_algo") or "some method"
    return [
        Refusal(
            f"{plan.checkpoint.path} is quantized already ({method})",
            f"rounding twice costs accuracy: name the original, or set recipe = {AS_IT_IS!r} "
            "and [baseline] to release it as it is",
        )
    ]


def _support(plan: Plan) -> tuple[Refusal, ...]:
    asked = (plan.recipe, plan.tier, plan.runtime.name, plan.runtime.version)
    # Where some lane takes the recipe, the one that the release file names must be it.
    return ledger.support(*asked) or ledger.support(*asked, only=plan.runtime.lane)


def _capacity(plan: Plan) -> tuple[Refusal, ...]:
    return plan.capacity.refusals() if plan.tier.gpu else ()


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
    if not plan.tier.gpu:
        return [Refusal(f"{plan.tier.name} is one device", "set target.tp and pp to 1")]
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
    if not plan.recipe.needs_texts or plan.calibration.files:
        return []
    return [
        Refusal(
            f"{plan.recipe.name} has static scales and needs calibration texts",
            '[quantize.calibration] files = ["texts.jsonl"], one {"text": …} a line',
        )
    ]
