"""What a checkpoint is, in the words of this house."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builders.autopsy.storage import Storage
from builders.formats import Format
from builders.recipe import AS_IT_IS, Recipe


def _nowhere(_module: str) -> Storage | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognized:
    """How a checkpoint was quantized, by its own word.

    ``algorithm`` is the method's own name for what it did. ``group`` is the number of input
    channels that share a weight scale, 0 where a channel or tensor does. ``kept`` names what is
    declared as left alone. ``storage`` tells how a linear layer of a name is declared to be stored,
    or None where it was left alone. ``explicit`` says whether the declaration names all that was
    left alone, ``named`` which modules it declares quantized by their own name, ``kv_static``
    whether it promises scales for the KV cache, ``kv_clamped`` which tool raised those below 1 to
    1, if one did.
    """

    method: str
    algorithm: str = ""
    weights: Format = Format.BF16
    activations: Format = Format.BF16
    kv_cache: Format = Format.BF16
    group: int = 0
    symmetric: bool = True
    kept: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    explicit: bool = True
    named: frozenset[str] = frozenset()
    kv_static: bool = False
    kv_clamped: str = ""
    storage: Callable[[str], Storage | None] = field(default=_nowhere, compare=False, repr=False)

    @property
    def quantized(self) -> bool:
        """Whether anything is stored in fewer bits than it was trained in."""
        return self.weights.quantized or self.kv_cache.quantized

    @property
    def recipe(self) -> Recipe:
        """The recipe that this checkpoint is the result of, for plans: nothing is left to do."""
        return Recipe(
            name=AS_IT_IS,
            summary=f"{self.algorithm or self.method}, as it was imported",
            backend=self.method,
            preset=self.algorithm,
            weights=self.weights,
            activations=self.activations,
            kv_cache=self.kv_cache,
            group=self.group,
            calibrated=False,
            keep=self.kept,
        )

    @property
    def scheme(self) -> str:
        """The scheme label, such as ``W4A16`` or ``W8A8KV8``."""
        return self.recipe.scheme

    def as_json(self) -> dict[str, object]:
        """Return it as one JSON object."""
        return {
            "method": self.method,
            "algorithm": self.algorithm,
            "format": self.weights.value,
            "scheme": self.scheme,
            "activations": self.activations.value,
            "kv_cache": self.kv_cache.value if self.kv_cache.quantized else "none",
            "group": self.group,
            "symmetric": self.symmetric,
            "kept": list(self.kept),
            "runtimes": list(self.runtimes),
            "notes": list(self.notes),
        }


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def texts(value: object) -> tuple[str, ...]:
    """Return the strings of a JSON list, nothing for anything else."""
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def whole(value: object, default: int = 0) -> int:
    """Return a whole number, or the default for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
