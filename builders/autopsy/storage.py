"""How one linear layer lies on disk: its tensors, their dtypes and shapes, as values.

A shape follows from the out and in features (o, i) and the number g of input channels that share
a scale. The tables of each method build on these.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod
from typing import Final

from builders.formats import Format

Shape = tuple[int, ...]
MakeShape = Callable[[int, int, int], Shape]
Features = Callable[[Shape], tuple[int, int] | None]

WIDTHS: Final[Mapping[str, int]] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS: Final = frozenset({"F64", "F32", "BF16", "F16"})


class Judge(Enum):
    """How the values of a tensor are judged: not at all, as scales, or as scales that may be 0."""

    NOTHING = 0
    SCALE = 1
    MAGNITUDE = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a layer: the dtypes it may have, its possible shapes (none: any), its judge.

    ``shared``: a stack of experts may have one for all of them.
    """

    dtypes: tuple[str, ...]
    shapes: tuple[MakeShape, ...] = ()
    judge: Judge = Judge.NOTHING
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """One way to store a linear layer; the first of ``parts`` holds the codes of the weights.

    ``features`` tells (out, in) from the codes' shape, or None for a shape that cannot be.
    ``stacked``: all tensors have the experts as their first dimension. ``flat``: the codes lie in
    a row, so that only out times in is known. ``runtimes``: those that read it, best known first.
    ``experts``: how the format lies where experts are stacked, if that is known.
    """

    name: str
    weights: Format
    activations: Format = Format.BF16
    group: int = 0
    parts: Mapping[str, Part]
    features: Features
    optional: Mapping[str, Part] = field(default_factory=dict)
    stacked: bool = False
    flat: bool = False
    runtimes: tuple[str, ...] = ()
    experts: "Storage | None" = None

    @property
    def codes(self) -> str:
        """The part that holds the codes."""
        return next(iter(self.parts))

    @property
    def every(self) -> dict[str, Part]:
        """All parts, needed and optional."""
        return {**self.parts, **self.optional}

    @property
    def stack(self) -> "Storage":
        """This format where experts are stacked; unless known, dtypes and scales alone count."""
        return self.experts or replace(
            self,
            parts={name: replace(one, shapes=()) for name, one in self.parts.items()},
            optional={name: replace(one, shapes=()) for name, one in self.optional.items()},
            features=lambda shape: (prod(shape) * self.times, 1),
            flat=True,
            runtimes=self.stack_runtimes,
        )

    @property
    def stack_runtimes(self) -> tuple[str, ...]:
        """The runtimes but the one that asks for each expert's own tensors."""
        return tuple(runtime for runtime in self.runtimes if runtime != "embedded")

    @property
    def times(self) -> int:
        """How many codes share an element of the tensor that holds them."""
        return 8 * WIDTHS[self.parts[self.codes].dtypes[0]] // self.weights.bits

    def sides(self, stored: Shape) -> tuple[int, int, int] | None:
        """Return (experts, out, in) for codes of this shape, or None if it cannot be."""
        if self.stacked and len(stored) < 2:
            return None
        experts, rest = (stored[0], stored[1:]) if self.stacked else (1, stored)
        features = self.features(rest)
        return None if features is None else (experts, *features)

    def shapes(self, part: Part, sides: tuple[int, int, int]) -> tuple[Shape, ...]:
        """Return the shapes that a part may have in a layer of these sides; none: any."""
        experts, out, into = sides
        lead = (experts,) if self.stacked else ()
        leads = ((), lead) if self.stacked and part.shared else (lead,)
        group = self.group or into
        return tuple((*lead, *make(out, into, group)) for lead in leads for make in part.shapes)


def part(dtypes: str, *shapes: MakeShape, judge: Judge = Judge.NOTHING) -> Part:
    """Make a part from dtypes in one string; the first is the usual one."""
    return Part(tuple(dtypes.split()), shapes, judge)


def scale(dtypes: str, *shapes: MakeShape) -> Part:
    """Make a part whose values must be finite and positive, and not every one of a kind 1."""
    return Part(tuple(dtypes.split()), shapes, Judge.SCALE)


def size(dtype: str, shape: Shape) -> int:
    """Return the bytes of a tensor; a dtype that nobody knows counts one byte a value."""
    return WIDTHS.get(dtype, 1) * prod(shape)


def ceil(value: int, block: int) -> int:
    """Return how many blocks it takes to hold so many values."""
    return -(-value // block)


def whole(o: int, i: int, _g: int) -> Shape:
    """One value for each weight."""
    return (o, i)


def scalar(*_: int) -> Shape:
    """One number, without a dimension."""
    return ()


def single(*_: int) -> Shape:
    """One number in a list."""
    return (1,)


def rows(o: int, _i: int, _g: int) -> Shape:
    """One value for each out feature."""
    return (o,)


def column(o: int, _i: int, _g: int) -> Shape:
    """One value for each out feature, as a column."""
    return (o, 1)


def inputs(_o: int, i: int, _g: int) -> Shape:
    """One value for each in feature."""
    return (i,)


def groups(o: int, i: int, g: int) -> Shape:
    """One value for each out feature and group of in features."""
    return (o, ceil(i, g))


def halves(o: int, i: int, _g: int) -> Shape:
    """Two values a byte, neighbours along the in features."""
    return (o, i // 2)


def blocks(width: int) -> MakeShape:
    """One value for each out feature and ``width`` in features."""
    return lambda o, i, _g: (o, ceil(i, width))


def tiles(down: int, across: int) -> MakeShape:
    """One value for each tile of ``down`` out features by ``across`` in features."""
    return lambda o, i, _g: (ceil(o, down), ceil(i, across))


def turned(make: MakeShape) -> MakeShape:
    """The same with its two dimensions changed over."""
    return lambda o, i, g: make(o, i, g)[::-1]


def plain(shape: Shape) -> tuple[int, int] | None:
    """Read (out, in) from codes that lie one by one."""
    return (shape[0], shape[1]) if len(shape) == 2 else None


def packed(times: int, *, along: int = 1) -> Features:
    """Read (out, in) from codes of which ``times`` share an element along one dimension."""

    def features(shape: Shape) -> tuple[int, int] | None:
        if len(shape) != 2:
            return None
        out, into = (n * (times if axis == along else 1) for axis, n in enumerate(shape))
        return out, into

    return features
