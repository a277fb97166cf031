"""Many numbers in little text: base64 of little-endian arrays. Gives back what it was given."""

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Final, TypeVar

N = TypeVar("N", int, float)
_BIG: Final = sys.byteorder == "big"


def floats(values: Iterable[float]) -> str:
    """Pack numbers as float32: what was a float32 comes back to the bit."""
    return _text(array("f", values))


def unpacked_floats(text: str) -> list[float]:
    """Unpack what `floats` made; other text is a `ValueError`."""
    return _read(array("f"), text).tolist()


def wholes(values: Iterable[int]) -> str:
    """Pack whole numbers of up to 32 bits, none below zero."""
    return _text(array("I", values))


def unpacked_wholes(text: str) -> list[int]:
    """Unpack what `wholes` made; other text is a `ValueError`."""
    return _read(array("I"), text).tolist()


def _text(values: "array[N]") -> str:
    if _BIG:
        values.byteswap()
    return b64encode(values.tobytes()).decode()


def _read(into: "array[N]", text: str) -> "array[N]":
    into.frombytes(b64decode(text, validate=True))
    if _BIG:
        into.byteswap()
    return into
