"""Read JSON that anybody may have written: whatever is wrong with it ends in one refusal."""

import json
from collections.abc import Callable
from typing import TypeVar

from builders.errors import ReleaseError

T = TypeVar("T")


def decoded(data: bytes, place: str) -> dict[str, object]:
    """Decode a JSON object; anything else is refused in the name of ``place``."""
    return understood(lambda: expect(dict, json.loads(data)), place)


def understood(read: Callable[[], T], place: str) -> T:
    """Call a reader; a missing key, a wrong type or a bad value is refused."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ReleaseError(
            f"{place}: not as enginesmith writes it ({error})",
            hint="it was cut short or changed: copy it anew from where it was made",
        ) from error


def expect(kind: type[T], value: object) -> T:
    """Insist on a type; true and false are no numbers here."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def texts(value: object) -> dict[str, str]:
    """Insist on an object whose values are all strings."""
    return {key: expect(str, text) for key, text in expect(dict, value).items()}
