"""A recipe says how a checkpoint is quantized. Parsed once at the edge, then trusted."""

from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Final, Self

from builders.errors import UsageError
from builders.formats import Format
from builders.parse import Table, nearest, read_toml
from builders.tiers import Tier

KEEP: Final = ("*lm_head*", "*embed_tokens*")
AS_IT_IS: Final = "none"  # the recipe of what came quantized: nothing is left to do
SEARCH: Final = "auto_quantize"  # ModelOpt's search for the best format of each layer


class Unreached(Enum):
    """What becomes of a mixture's experts that no calibration token met.

    ``explain`` gives them the input scale of the others and says so, ``fail`` stops.
    """

    EXPLAIN = "explain"
    FAIL = "fail"


class Memory(Enum):
    """How a model is held while it is quantized: whole, in pieces, or as it fits."""

    AUTO = "auto"
    RESIDENT = "resident"
    STREAMED = "streamed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTexts:
    """Texts of a data set on the hub at one commit: a JSON-lines file of it, or a split."""

    hub_id: str
    revision: str
    file: str = ""
    config: str = ""
    split: str = "train"
    column: str = ""

    @property
    def name(self) -> str:
        """What it is, in short."""
        return f"{self.hub_id}@{self.revision[:8]}/{self.file or self.split}"


Texts = Path | HubTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The texts that set static scales, how many of them, tokens of each, and the seed.

    ``weights`` are the shares that ``files`` have of the samples (none: all texts alike).
    ``overlap`` is the share of the evaluation's runs of words that may stand in them by chance.
    """

    files: tuple[Texts, ...] = ()
    weights: tuple[float, ...] = ()
    samples: int = 512
    length: int = 512
    seed: int = 0
    unreached: Unreached = Unreached.EXPLAIN
    overlap: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The formats of weights, activations and KV cache, the algorithm, and the modules left alone.

    ``backend`` names the quantizer, ``preset`` that backend's own name for the algorithm (for
    ModelOpt a constant of ``modelopt.torch.quantization``, or the path of a recipe that ModelOpt
    ships). ``group`` is the number of consecutive input channels that share a weight scale, 0 where
    a whole channel or tensor does. A mixture names the recipes in ``formats`` of which each layer
    takes the one that costs least, so that a weight takes ``bits`` in the mean. ``expects`` says
    what accuracy to expect, by ``source``.
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
    formats: tuple[str, ...] = ()
    bits: float = 0.0
    expects: str = ""
    source: str = ""

    @property
    def mixed(self) -> bool:
        """Whether every layer has a format of its own."""
        return bool(self.formats)

    @property
    def referenced(self) -> bool:
        """Whether the preset is the path of a recipe that ModelOpt ships."""
        return "/" in self.preset

    @property
    def kv_scales(self) -> bool:
        """Whether the KV cache has calibrated scales; E5M2 has none, runtimes convert to it."""
        return self.kv_cache.quantized and self.kv_cache.scale_bits > 0

    @property
    def needs_texts(self) -> bool:
        """Whether calibration texts are read: static scales of activations or KV cache are set."""
        return self.name != AS_IT_IS and (self.calibrated or self.kv_scales)

    @property
    def scheme(self) -> str:
        """The scheme label: bits of weights, activations and, where it is quantized, KV cache."""
        kv = f"KV{self.kv_cache.bits}" if self.kv_cache.quantized else ""
        return f"W{self.bits or self.weights.bits:g}A{self.activations.bits}{kv}"

    def native_on(self, tier: Tier) -> bool:
        """Whether the tier multiplies in this recipe's format; otherwise the gain is memory-only.

        Tensor Cores multiply in the format of the activations: weights of fewer bits are widened. A
        mixture has layers of both.
        """
        multiplied = (self.activations, self.weights) if self.mixed else (self.activations,)
        return self.activations.quantized and tier.is_native(*multiplied)

    def __str__(self) -> str:
        return f"{self.name} ({self.scheme})"

    @classmethod
    def parse(cls, table: Table) -> Self:
        """Read a recipe; an absent key takes its default, an unknown one is an error."""
        with table:
            formats, bits = _mixture(table)
            return cls(
                name=table.text("name"),
                summary=table.text("summary"),
                backend=table.text("backend"),
                preset=SEARCH if formats else _preset(table),
                weights=table.choice("weights", Format),
                activations=table.choice("activations", Format, Format.BF16),
                kv_cache=table.choice("kv_cache", Format, Format.BF16),
                group=table.whole("group", 0),
                calibrated=table.flag("calibrated", default=True),
                keep=table.texts("keep", KEEP),
                formats=formats,
                bits=bits,
                expects=table.text("expects", ""),
                source=table.text("source", ""),
            )


def _preset(table: Table) -> str:
    preset, path = table.text("preset", ""), table.text("modelopt", "")
    if bool(preset) == bool(path):
        raise UsageError(
            f"{table.place}: a recipe needs either preset or modelopt",
            hint='modelopt = "general/ptq/nvfp4_default-kv_fp8" names a recipe that ModelOpt ships',
        )
    inside = preset or path
    if (path and "/" not in path) or inside.startswith("/") or ".." in inside:
        raise UsageError(
            f"{table.place}: {inside!r} is no path inside ModelOpt's own recipes",
            hint='for example modelopt = "general/ptq/nvfp4_default-kv_fp8"',
        )
    return inside


def _mixture(table: Table) -> tuple[tuple[str, ...], float]:
    formats, bits = table.texts("formats", ()), table.number("bits", 0.0)
    if bool(formats) != bool(bits) or len(formats) == 1:
        raise UsageError(
            f"{table.place}: a mixture needs two formats at least, and bits",
            hint='formats = ["nvfp4", "fp8"] and bits = 6.0',
        )
    return formats, bits


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
