"""YAML that people read and PyYAML reads back as it was: scalars, lists and tables, nothing else.

TensorRT-LLM loads it with PyYAML, which follows YAML 1.1: `no` is false there, `1e-05` a text. What
could be read as anything but itself is quoted.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

from builders.errors import UsageError

# A text that no YAML reader takes for a number, a date, a boolean or null.
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"})
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDTH: Final = 90


def render_yaml(args: Mapping[str, object]) -> str:
    """Return the YAML of a table, in its own order; a value that is no YAML is a `UsageError`."""
    return "".join(f"{line}\n" for line in _table(args, "", ""))


def _table(table: Mapping[str, object], indent: str, where: str) -> Iterator[str]:
    for key, value in table.items():
        if not _KEY.fullmatch(key) or key.lower() in _WORDS:
            raise UsageError(
                f"{where}{key!r} is no key that can be written", hint="letters, digits and _"
            )
        yield from _entry(f"{indent}{key}:", value, f"{indent}  ", f"{where}{key}.")


def _entry(head: str, value: object, indent: str, where: str) -> Iterator[str]:
    """One key or list item with its value, on one line where it fits."""
    if isinstance(value, Mapping) and value:
        yield head
        yield from _table(value, indent, where)
        return
    flow = _flow(value, where)
    if isinstance(value, list | tuple) and value and len(head) + len(flow) > _WIDTH:
        yield head
        yield from (f"{indent}- {_flow(item, where)}" for item in value)
        return
    yield f"{head} {flow}"


def _flow(value: object, where: str) -> str:
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{_key(k, where)}: {_flow(v, where)}" for k, v in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item, where) for item in value) + "]"
    return _scalar(value, where)


def _key(key: object, where: str) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.lower() in _WORDS:
        raise UsageError(f"{where}{key!r} is no key that can be written")
    return key


def _scalar(value: object, where: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        mantissa, exponent, power = text.partition("e")
        dotted = mantissa if "." in mantissa else f"{mantissa}.0"
        # YAML 1.1 wants a dot, and a sign in the exponent.
        return f"{dotted}e{power if power[:1] in '+-' else '+' + power}" if exponent else text
    raise UsageError(f"{where.rstrip('.')} cannot be written as YAML: {value!r}")


def _text(value: str, where: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise UsageError(f"{where.rstrip('.')} is no text: it holds half a character")
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if 0x20 <= code < 0x7F:
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
