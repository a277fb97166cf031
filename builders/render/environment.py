"""How templates are filled: no value reaches a file without a filter that knows its place."""

from typing import Final

import jinja2

from builders.errors import UsageError

# Bytes that mean themselves between the quotes of protobuf's text format; all others are written
# as octal escapes of their UTF-8 bytes (protobuf.dev/reference/protobuf/textformat-spec, String).
_PLAIN: Final = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:@+=,"
)


class Literal(str):
    """Text that a filter has made safe for its place in a file."""

    __slots__ = ()


def quoted(value: object) -> Literal:
    """Write a string of protobuf's text format, quotes included; nothing can close it."""
    if not isinstance(value, str):
        raise TypeError(f"quoted: {value} is not text")
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{value!r} is not valid Unicode text ({error.reason})") from error
    return Literal('"' + "".join(chr(b) if b in _PLAIN else f"\\{b:03o}" for b in raw) + '"')


def whole(value: object) -> Literal:
    """Write a whole number in decimal digits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"whole: {value} is not a whole number")
    return Literal(int(value))


def _finalize(value: object) -> Literal:
    """Let through only what a filter has written; to print an undefined value raises by itself."""
    if not isinstance(value, Literal):
        raise TypeError(f"{value} is written without a filter")
    return value


def environment() -> jinja2.Environment:
    """Return the environment that reads ``templates/triton``."""
    made = jinja2.Environment(  # noqa: S701 - writes pbtxt and Python, never HTML
        loader=jinja2.PackageLoader("builders.templates", "triton"),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    made.filters = {"quoted": quoted, "whole": whole}
    return made
