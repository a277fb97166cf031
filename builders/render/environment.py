"""How templates are filled: no value reaches a file without a filter that knows its place."""

import json
from collections.abc import Mapping
from typing import Final

import jinja2

from builders.emit import render_yaml
from builders.errors import UsageError
from builders.render.context import NAME

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


def path(value: object) -> Literal:
    """Write a model's name inside a text of JSON: a name that `context` let in needs no escapes."""
    if not isinstance(value, str) or not NAME.match(value):
        raise TypeError(f"path: {value} is no name")
    return Literal(value)


def whole(value: object) -> Literal:
    """Write a whole number in decimal digits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"whole: {value} is not a whole number")
    return Literal(int(value))


def switch(value: object) -> Literal:
    """Write ``true`` or ``false``, as protobuf's text format has them."""
    if not isinstance(value, bool):
        raise TypeError(f"switch: {value} is neither true nor false")
    return Literal("true" if value else "false")


def number(value: object) -> Literal:
    """Write a finite number in decimal digits."""
    if not isinstance(value, float):
        raise TypeError(f"number: {value} is no number")
    return Literal(json.dumps(value, allow_nan=False))


def yaml(value: object) -> Literal:
    """Write a table as YAML, its keys at the beginning of their lines."""
    return Literal(render_yaml(_table(value)).rstrip("\n"))


def members(value: object) -> Literal:
    """Write the members of a JSON object, one a line, each with a comma in front."""
    lines = (f",\n  {json.dumps(key)}: {_json(item)}" for key, item in _table(value).items())
    return Literal("".join(lines))


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value} is no table")
    return value


def _json(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{value!r} cannot be written as JSON: {error}") from error


def _finalize(value: object) -> Literal:
    """Let through only what a filter has written; to print an undefined value raises by itself."""
    if not isinstance(value, Literal):
        raise TypeError(f"{value} is written without a filter")
    return value


def environment() -> jinja2.Environment:
    """Return the environment that reads ``templates/triton``."""
    made = jinja2.Environment(  # noqa: S701 - writes pbtxt, YAML and JSON, never HTML
        loader=jinja2.PackageLoader("builders.templates", "triton"),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    made.filters = {
        filter.__name__: filter for filter in (quoted, path, whole, switch, number, yaml, members)
    }
    return made
