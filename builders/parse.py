"""Strict reading of TOML tables: the one place where unknown data becomes domain types."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from builders.errors import UsageError

E = TypeVar("E", bound=Enum)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a mistyped word: its nearest neighbour, else all that is known."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def read_toml(path: Path) -> dict[str, object]:
    """Read a TOML file; a missing or malformed one is a `UsageError` that names it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="the file must be valid TOML") from error


class Table:
    """A table that remembers what was asked of it; what nobody asked for is an error."""

    def __init__(self, data: Mapping[str, object], *, place: str, prefix: str = "") -> None:
        self._data = data
        self._place = place
        self._prefix = prefix
        self._asked: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file as a table whose errors name the file."""
        return cls(read_toml(path), place=str(path))

    @property
    def place(self) -> str:
        """Where the table was read: a file's name, for messages."""
        return self._place

    def table(self, key: str) -> Self:
        """Read a sub-table; an absent one is empty."""
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a table", value)
        return type(self)(value, place=self._place, prefix=f"{self._prefix}{key}.")

    def tables(self) -> dict[str, Self]:
        """Read every entry as a sub-table, by name."""
        return {key: self.table(key) for key in self._data}

    def text(self, key: str, default: str | None = None) -> str:
        """Read a string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read a list of strings."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, "a list of strings", value)
        return tuple(value)

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """Read a whole number that is at least ``least``."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(key, f"a whole number of at least {least}", value)
        return value

    def number(self, key: str, default: float | None = None, *, least: float = 0.0) -> float:
        """Read a finite number that is at least ``least``."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number", value)
        if not least <= value < float("inf"):
            raise self._wrong(key, f"a finite number of at least {least}", value)
        return float(value)

    def numbers(self, key: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Read a list of finite numbers of at least 0."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple):
            raise self._wrong(key, "a list of numbers", value)
        inner = type(self)(
            {str(at): one for at, one in enumerate(value)},
            place=self._place,
            prefix=f"{self._prefix}{key}.",
        )
        return tuple(inner.number(str(at)) for at in range(len(value)))

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Read a boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def choice(self, key: str, kind: type[E], default: E | None = None) -> E:
        """Read one member of an enum by its value."""
        value = self._get(key, default)
        try:
            return kind(value)
        except ValueError:
            names = [str(member.value) for member in kind]
            raise UsageError(
                f"{self._place}: {self._prefix}{key} = {value!r} is not one of {', '.join(names)}",
                hint=nearest(str(value), names),
            ) from None

    def _get(self, key: str, default: object) -> object:
        self._asked.append(key)
        value = self._data.get(key, default)
        if value is None:
            raise UsageError(f"{self._place}: {self._prefix}{key} is missing")
        return value

    def _wrong(self, key: str, expected: str, value: object) -> UsageError:
        return UsageError(f"{self._place}: {self._prefix}{key} must be {expected}, not {value!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unknown = sorted(self._data.keys() - set(self._asked))
        if error is None and unknown:
            raise UsageError(
                f"{self._place}: unknown key {self._prefix}{unknown[0]}",
                hint=nearest(unknown[0], self._asked),
            )
