"""A heat map: what each layer of a model costs in each format, darker for more."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10
from typing import Final

from builders.report import numbers
from builders.report.page import ENVIRONMENT

CELL: Final = (62, 22)  # width and height
_MARGIN: Final = (58, 64)  # for the names of rows, and of maps and columns
_GAP: Final = 46
_STEPS: Final = 10  # shades
_LEAST: Final = 1e-12  # a cost of nothing is drawn as this


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured cost: in which map, row and column it stands."""

    map: str
    row: int
    column: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One rectangle: where, how dark (0 to 9), what is written in it and what is read out."""

    x: int
    y: int
    shade: int
    text: str
    spoken: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """One format's rectangles; each column has a place, a short name and its whole one."""

    name: str
    x: int
    columns: tuple[tuple[int, str, str], ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """All that the templates may see."""

    title: str
    lead: str
    width: int
    height: int
    cell: tuple[int, int]
    top: int
    rows: tuple[tuple[int, str], ...]
    maps: tuple[Map, ...]
    low: str
    high: str
    table: tuple[tuple[str, ...], ...]

    @property
    def shades(self) -> range:
        """All shades, from the lightest on."""
        return range(_STEPS)


def heat(points: Sequence[Point], *, title: str, lead: str) -> Heat:
    """Lay out one map for each format, side by side, on one logarithmic scale."""
    values = [max(point.value, _LEAST) for point in points if isfinite(point.value)]
    low, high = (min(values), max(values)) if values else (_LEAST, 1.0)
    rows = sorted({point.row for point in points})
    left, top = _MARGIN
    maps: list[Map] = []
    x = left
    for name in dict.fromkeys(point.map for point in points):
        own = [point for point in points if point.map == name]
        columns = list(dict.fromkeys(point.column for point in own))
        maps.append(_map(name, own, columns, rows, (x, top), (low, high)))
        x += len(columns) * CELL[0] + _GAP
    return Heat(
        title=title,
        lead=lead,
        width=x - _GAP + 10,
        height=top + len(rows) * CELL[1] + 10,
        cell=CELL,
        top=top,
        rows=tuple((top + at * CELL[1] + 15, _row(row)) for at, row in enumerate(rows)),
        maps=tuple(maps),
        low=numbers.digits(low),
        high=numbers.digits(high),
        table=tuple(
            (point.map, _row(point.row), point.column, numbers.digits(point.value))
            for point in sorted(points, key=lambda one: -one.value)
        ),
    )


def _map(
    name: str,
    points: Sequence[Point],
    columns: Sequence[str],
    rows: Sequence[int],
    origin: tuple[int, int],
    bounds: tuple[float, float],
) -> Map:
    left, top = origin
    return Map(
        name=name,
        x=left,
        columns=tuple(
            (left + at * CELL[0], _short(column), column) for at, column in enumerate(columns)
        ),
        cells=tuple(
            Cell(
                x=left + columns.index(point.column) * CELL[0],
                y=top + rows.index(point.row) * CELL[1],
                shade=_shade(point.value, *bounds),
                text=f"{point.value:.1e}",
                spoken=f"{name}, {_row(point.row)}, {point.column}: {point.value:.3g}",
            )
            for point in points
        ),
    )


def _short(column: str) -> str:
    """Shorten the name of a module for the head of its column."""
    return column.rpartition(".")[2].replace("_proj", "")


def _row(row: int) -> str:
    return f"layer {row}" if row >= 0 else "others"


def _shade(value: float, low: float, high: float) -> int:
    if not isfinite(value) or high <= low:
        return _STEPS - 1
    share = log10(max(value, _LEAST) / low) / log10(high / low)
    return min(_STEPS - 1, max(0, int(share * _STEPS)))


def as_svg(drawn: Heat) -> str:
    """Draw it as a picture of its own."""
    return ENVIRONMENT.get_template("heat.svg.j2").render(heat=drawn, alone=True)


def as_html(drawn: Heat) -> str:
    """Render it as a page with the table under it."""
    return ENVIRONMENT.get_template("sensitivity.html.j2").render(heat=drawn, alone=False)
