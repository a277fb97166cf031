"""A recipe says how a checkpoint is quantized. Parsed once at the edge, then trusted."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Self

from builders.errors import UsageError
from builders.formats import Format
from builders.parse import Table, nearest, read_toml
from builders.tiers import Tier

KEEP: Final = ("*lm_head*", "*embed_tokens*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The texts that set static scales: files (JSONL), sample count, tokens a sample, seed."""

    files: tuple[Path, ...] = ()
    samples: int = 512
    length: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The formats of weights, activations and KV cache, the algorithm, and the modules left alone.

    ``backend`` names the quantizer, ``preset`` that backend's own name for the algorithm (for
    ModelOpt a constant of ``modelopt.torch.quantization``). ``group`` is the number of consecutive
    input channels that share a weight scale, 0 where a whole channel or tensor does.
    """

    name: str
    summary: str
    backend: str
    preset: str
    weights: Format
    activations: Format = Format.BF16
    kv_cache: Format = Format.BF16
    group: int = 0
    calibrated: bool = True
    keep: tuple[str, ...] = KEEP

    @property
    def scheme(self) -> str:
        """The scheme label: bits of weights, activations and, where it is quantized, KV cache."""
        kv = f"KV{self.kv_cache.bits}" if self.kv_cache.quantized else ""
        return f"W{self.weights.bits}A{self.activations.bits}{kv}"

    def native_on(self, tier: Tier) -> bool:
        """Whether the tier multiplies in this recipe's format; otherwise the gain is memory-only.

        Tensor Cores multiply in the format of the activations: weights of fewer bits are widened.
        """
        return self.activations.quantized and tier.is_native(self.activations)

    def __str__(self) -> str:
        return f"{self.name} ({self.scheme})"

    @classmethod
    def parse(cls, table: Table) -> Self:
        """Read a recipe; an absent key takes its default, an unknown one is an error."""
        with table:
            return cls(
                name=table.text("name"),
                summary=table.text("summary"),
                backend=table.text("backend"),
                preset=table.text("preset"),
                weights=table.choice("weights", Format),
                activations=table.choice("activations", Format, Format.BF16),
                kv_cache=table.choice("kv_cache", Format, Format.BF16),
                group=table.whole("group", 0),
                calibrated=table.flag("calibrated", default=True),
                keep=table.texts("keep", KEEP),
            )


def shipped() -> dict[str, Recipe]:
    """Return every recipe that ships with the package, by name."""
    found = (entry for entry in resources.files("builders.recipes").iterdir())
    paths = sorted(Path(str(entry)) for entry in found if entry.name.endswith(".toml"))
    recipes = (Recipe.parse(Table(read_toml(path), place=path.name)) for path in paths)
    return {recipe.name: recipe for recipe in recipes}


def find(name_or_path: str, *, beside: Path) -> Recipe:
    """Return a shipped recipe by name, or read one from a ``.toml`` path relative to ``beside``."""
    if name_or_path.endswith(".toml"):
        return Recipe.parse(Table.read(beside / name_or_path))
    recipes = shipped()
    if name_or_path not in recipes:
        raise UsageError(f"unknown recipe {name_or_path!r}", hint=nearest(name_or_path, recipes))
    return recipes[name_or_path]
