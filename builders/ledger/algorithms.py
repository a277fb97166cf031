"""What a recipe's export declares, and how many bytes its weights take (`algorithms.toml`)."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cache
from math import prod
from typing import Final

from builders.formats import UNQUANTIZED, Format
from builders.ledger.releases import entries
from builders.parse import Table
from builders.recipe import Recipe

# Besides a recipe's own exclusions, what ModelOpt never quantizes: heads, embeddings, routers,
# convolutions, multi-token prediction, vision towers.
KEPT: Final = (
    "*lm_head*", "*output_layer*", "output", "*proj_out", "*embed*", "*wte", "*wpe", "*router*",
    "*mlp.gate", "*block_sparse_moe.gate*", "*shared_expert_gate", "*conv1d*", "mtp",
    "*linear_attn.in_proj_a*", "*linear_attn.in_proj_b*", "*vision_tower*", "*vision_model*",
    "*visual*", "*multi_modal_projector*",
)  # fmt: skip
_WORDS: Final = {"all": 0, "group": -1}
_GROUP: Final = 128  # where a recipe leaves its group open


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One declared algorithm: the recipes it belongs to, and the layout of a linear weight.

    ``exact`` says that the layout was held against real exports. ``engine_checkpoint`` is false
    where no TensorRT-LLM checkpoint of it was ever exported.
    """

    name: str
    backend: str
    presets: tuple[str, ...]
    weights: str
    activations: str
    only: tuple[str, ...]
    block: tuple[int, int]
    block_bits: int
    tensor_bytes: int
    input_bytes: int
    inputs: tuple[str, ...]
    tile: tuple[int, int]
    engine_checkpoint: bool
    exact: bool

    def made_by(self, recipe: Recipe) -> bool:
        """Whether this recipe's formats and backend come out as this algorithm."""
        if self.backend and self.backend != recipe.backend:
            return False
        return self.weights == _name(recipe.weights) and self.activations in {
            "", _name(recipe.activations)
        }  # fmt: skip

    def covers(self, module: str, recipe: Recipe) -> bool:
        """Whether the recipe quantizes the linear module of this name."""
        if self.name == "NO_QUANT" or _within(module, (*recipe.keep, *KEPT)):
            return False
        return not self.only or _within(module, self.only)

    def inner_block(self, recipe: Recipe) -> int:
        """The number of inputs that must stay together, 1 where the scale covers them all."""
        width = self.block[1]
        return (recipe.group or _GROUP) if width < 0 else width or 1

    def bytes(
        self, module: str, shape: tuple[int, ...], recipe: Recipe, *, loaded: bool = False
    ) -> int:
        """Return the bytes of one quantized linear weight with all that belongs to it.

        ``shape`` is [outputs, inputs], or [experts, outputs, inputs]. ``loaded`` counts the grid
        of block scales padded to the GPU's tile, which is how it lies in GPU memory.
        """
        *experts, outputs, inputs = shape
        rows = -(-outputs // (self.block[0] or outputs or 1))
        columns = -(-inputs // (self.inner_block(recipe) if self.block[1] else inputs or 1))
        if loaded:
            rows, columns = (
                -(-n // t) * t for n, t in zip((rows, columns), self.tile, strict=True)
            )
        each = Fraction(recipe.bits) if recipe.mixed else recipe.weights.bits
        bits = outputs * inputs * each + rows * columns * self.block_bits
        smoothed = not self.inputs or module.rpartition(".")[2] in self.inputs
        extra = self.tensor_bytes + (self.input_bytes * inputs if smoothed else 0)
        return prod(experts) * (-(-bits // 8) + extra)


@cache
def algorithms() -> tuple[Algorithm, ...]:
    """Return every algorithm, in the order in which recipes are matched with them."""
    return tuple(_algorithm(table) for table in entries("algorithms.toml", "algorithm"))


@cache
def algorithm(recipe: Recipe) -> Algorithm | None:
    """Return what the recipe's export declares, or None for a quantizer that nobody wrote down."""
    same = [one for one in algorithms() if one.backend in {"", recipe.backend}]
    named = (one for one in same if recipe.preset in one.presets)
    alike = (one for one in same if one.made_by(recipe))
    return next(named, None) or next(alike, None)


def _within(module: str, patterns: tuple[str, ...]) -> bool:
    """Whether a module, or one that it lies in, matches one of the patterns."""
    inner, ends, others = _sorted_out(patterns)
    return (
        any(part in module for part in inner)
        or module.endswith(ends)
        or any(fnmatchcase(module, pattern) for pattern in others)
    )


@cache
def _sorted_out(patterns: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Tell substrings and endings from the other patterns: a mixture asks 50,000 times."""
    inner, ends, others = [], [], []
    for pattern in patterns:
        core = pattern.strip("*")
        if set(core) & set("*?[") or not pattern.startswith("*"):
            others += [pattern, f"{pattern}.*"]
        elif pattern.endswith("*"):
            inner.append(core)
        else:
            ends.append(core)
            inner.append(f"{core}.")
    return tuple(inner), tuple(ends), others


def _name(fmt: Format) -> str:
    return "bf16" if fmt in UNQUANTIZED else str(fmt.value)


def _algorithm(table: Table) -> Algorithm:
    with table:
        return Algorithm(
            name=table.text("name"),
            backend=table.text("backend"),
            presets=table.texts("presets", ()),
            weights=table.text("weights"),
            activations=table.text("activations"),
            only=table.texts("only", ()),
            block=_grid(table.text("block", "all x all")),
            block_bits=table.whole("block_bits", 0),
            tensor_bytes=table.whole("tensor_bytes", 0),
            input_bytes=table.whole("input_bytes", 0),
            inputs=table.texts("inputs", ()),
            tile=_grid(table.text("tile", "1 x 1")),
            engine_checkpoint=table.flag("engine_checkpoint", default=True),
            exact=table.flag("exact", default=False),
        )


def _grid(text: str) -> tuple[int, int]:
    """Read a block: ``1 x 32``, ``1 x all`` (0) or ``1 x group`` (-1)."""
    rows, _, columns = text.partition(" x ")
    return _side(rows), _side(columns)


def _side(word: str) -> int:
    return _WORDS[word] if word in _WORDS else int(word)
