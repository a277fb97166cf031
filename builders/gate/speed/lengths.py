"""How long prompts and answers are: one length, a range, a lognormal, or those of a file."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Self

from builders.errors import UsageError
from builders.gate import jsonl
from builders.parse import Table


class Shape(Enum):
    """The kinds of distributions."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    LOGNORMAL = "lognormal"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of lengths, all between ``least`` and ``most``.

    A lognormal has a ``median`` and a ``sigma``, the spread of its logarithm; what it draws beyond
    a limit becomes the limit. ``values`` are drawn each with the same chance.
    """

    shape: Shape
    least: int = 1
    most: int = 1
    median: float = 0.0
    sigma: float = 0.0
    values: tuple[int, ...] = ()

    @classmethod
    def fixed(cls, length: int) -> Self:
        """Return a distribution of one length only."""
        return cls(shape=Shape.FIXED, least=length, most=length)

    @classmethod
    def uniform(cls, least: int, most: int) -> Self:
        """Return a distribution in which each length of a range has the same chance."""
        return cls(shape=Shape.UNIFORM, least=least, most=most)

    @classmethod
    def parse(cls, table: Table, *, beside: Path, least: int) -> "Lengths":
        """Read a table whose ``shape`` says which keys it needs; no length is below ``least``."""
        with table:
            return _READERS[table.choice("shape", Shape)](cls, table, beside, least)

    def draw(self, dice: random.Random) -> int:
        """Draw one length."""
        match self.shape:
            case Shape.FIXED:
                return self.most
            case Shape.UNIFORM:
                return dice.randint(self.least, self.most)
            case Shape.LOGNORMAL:
                drawn = self.median * dice.lognormvariate(0.0, self.sigma)
                return min(max(round(drawn), self.least), self.most)
            case Shape.FILE:
                return dice.choice(self.values)

    def as_json(self) -> dict[str, object]:
        """Return what changes a measurement."""
        return {
            "shape": self.shape.value,
            "least": self.least,
            "most": self.most,
            "median": self.median,
            "sigma": self.sigma,
            "values": list(self.values),
        }


def _fixed(kind: type[Lengths], table: Table, _beside: Path, least: int) -> Lengths:
    length = table.whole("length", least=least)
    return kind(shape=Shape.FIXED, least=length, most=length)


def _uniform(kind: type[Lengths], table: Table, _beside: Path, least: int) -> Lengths:
    low, high = table.whole("least", least=least), table.whole("most", least=least)
    _ordered(low, high)
    return kind(shape=Shape.UNIFORM, least=low, most=high)


def _lognormal(kind: type[Lengths], table: Table, _beside: Path, least: int) -> Lengths:
    low, high = table.whole("least", least, least=least), table.whole("most", least=least)
    _ordered(low, high)
    return kind(
        shape=Shape.LOGNORMAL,
        least=low,
        most=high,
        median=table.number("median", least=1.0),
        sigma=table.number("sigma"),
    )


def _file(kind: type[Lengths], table: Table, beside: Path, least: int) -> Lengths:
    path = beside / table.text("file")
    values = []
    for number, line in enumerate(jsonl.text(path).splitlines(), start=1):
        if not line.strip():
            continue
        if not line.strip().isdecimal() or int(line) < least:
            raise UsageError(
                f"{path}:{number}: {line.strip()[:40]!r} is no length of at least {least}",
                hint="one whole number a line",
            )
        values.append(int(line))
    if not values:
        raise UsageError(f"{path}: no lengths", hint="one whole number a line")
    return kind(shape=Shape.FILE, least=min(values), most=max(values), values=tuple(values))


_Reader = Callable[[type[Lengths], Table, Path, int], Lengths]
_READERS: Final[Mapping[Shape, _Reader]] = {
    Shape.FIXED: _fixed,
    Shape.UNIFORM: _uniform,
    Shape.LOGNORMAL: _lognormal,
    Shape.FILE: _file,
}


def _ordered(low: int, high: int) -> None:
    if high < low:
        raise UsageError(f"lengths from {low} to {high}: most is below least")
