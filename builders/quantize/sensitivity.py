"""What each layer costs in each format: one layer rounded at a time, measured at the output.

This door is light: what computes is loaded when it is used.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol, Self, cast

from builders import files
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, UsageError
from builders.formats import Format
from builders.parse import nearest
from builders.progress import Progress
from builders.quantize.backends import loaded
from builders.quantize.calibration import Corpus
from builders.quantize.shapes import shape_refusals
from builders.recipe import Calibration, Recipe, shipped

FILE: Final = "sensitivity.json"
RECIPES: Final = ("fp8", "nvfp4", "int4_rtn")
MODULE: Final = "builders.quantize.costs"
# A slice of the calibration texts is enough to rank layers: their costs lie decades apart.
_SAMPLES: Final = 32
_LENGTH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One group of matrices that runtimes store as one, rounded by a recipe, all others not.

    ``divergence`` is the mean Kullback-Leibler divergence of the next token's distribution from
    the unrounded model's, in nats a token; ``changed`` the share of changed first choices.
    """

    recipe: str
    layer: int
    block: str
    weights: int
    divergence: float
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All costs of a model, and how many tokens they were measured on."""

    tokens: int
    costs: tuple[Cost, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `measure` wrote."""
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(tokens=data["tokens"], costs=tuple(Cost(**row) for row in data["costs"]))

    def as_json(self) -> dict[str, object]:
        """Return it as one JSON object."""
        return {"tokens": self.tokens, "costs": [asdict(cost) for cost in self.costs]}


class Measurer(Protocol):
    """What computes the costs; loaded when it is used."""

    def measure(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        corpus: Corpus,
        scratch: Path,
        progress: Progress,
    ) -> Sensitivity:
        """Measure one recipe, going on with what lies in ``scratch``."""


def chosen(names: tuple[str, ...], keep: tuple[str, ...]) -> dict[str, Recipe]:
    """Return the recipes of these names, without a KV cache, leaving more alone."""
    known = {name: one for name, one in shipped().items() if one.backend == "modelopt"}
    lost = next((name for name in names if name not in known or known[name].mixed), None)
    if lost or not names:
        raise UsageError(
            f"{lost!r} is no recipe whose layers can be measured one by one",
            hint=nearest(lost or "", [name for name, one in known.items() if not one.mixed]),
        )
    weights = {name: known[name] for name in names}
    return {
        name: replace(one, kv_cache=Format.BF16, keep=tuple(dict.fromkeys((*one.keep, *keep))))
        for name, one in weights.items()
    }


def corpus_of(calibration: Calibration) -> Corpus:
    """Choose the slice of the calibration texts on which is measured."""
    few = min(calibration.samples, _SAMPLES)
    short = min(calibration.length, _LENGTH)
    return Corpus.read(replace(calibration, samples=few, length=short))


def measure(
    checkpoint: Checkpoint,
    recipes: Mapping[str, Recipe],
    corpus: Corpus,
    out: Path,
    scratch: Path,
    progress: Progress,
) -> None:
    """Write the costs of all recipes into ``out``; a killed run goes on with its layer."""
    refused = [r for one in recipes.values() for r in shape_refusals(checkpoint, one)]
    if refused:
        raise PlanError(tuple(refused))
    progress("load the quantizer", 0, 1)
    measurer = cast("Measurer", loaded("modelopt", MODULE))
    progress("load the quantizer", 1, 1)
    found: list[Sensitivity] = []
    for recipe in recipes.values():
        with files.disk_errors(f"writing {scratch}"):
            scratch.mkdir(parents=True, exist_ok=True)
        found.append(measurer.measure(checkpoint, recipe, corpus, scratch, progress))
    whole = Sensitivity(tokens=found[0].tokens, costs=tuple(c for one in found for c in one.costs))
    text = json.dumps(whole.as_json(), indent=1) + "\n"
    with files.disk_errors(f"writing {out}"):
        (out / FILE).write_text(text, encoding="utf-8")
