"""Reads protobuf's text format with the line of every field, placeholders and all.

Protobuf's own parser forgets lines, and stops at the first placeholder of an unfilled template.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PLACEHOLDER: Final = re.compile(r"\$\{[^}\n]*\}")
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r,;]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<mark>[{}<>\[\]:])|(?P<word>(?:\$\{[^}\n]*\}|[^\s{}<>\[\]:,;"'\#])+)|(?P<other>.)""",
    re.VERBOSE,
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_CLOSING: Final = {"{": "}", "<": ">"}
_DEEPEST: Final = 50


class Unreadable(Exception):
    """Text that is no text format, and its line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its text (without quotes), or the fields in it; a list is a field repeated."""

    name: str
    line: int
    text: str = ""
    quoted: bool = False
    fields: tuple["Field", ...] = ()

    def all(self, name: str) -> Iterator["Field"]:
        """Yield the fields of a name."""
        return (field for field in self.fields if field.name == name)

    def get(self, *path: str) -> "Field | None":
        """Return the last field along a path; the last one counts, as in protobuf."""
        found: Field | None = self
        for name in path:
            found = next(reversed(list(found.all(name))), None) if found else None
        return found

    def said(self, *path: str, default: str = "") -> str:
        """Return the text of the field along a path."""
        found = self.get(*path)
        return found.text if found else default

    def walk(self) -> Iterator["Field"]:
        """Yield this field and all below."""
        yield self
        for field in self.fields:
            yield from field.walk()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def read(text: str) -> Field:
    """Return the whole message as one field without a name; what is no text format is refused."""
    tokens = list(_tokens(text))
    fields, at = _message(tokens, 0, "", 0)
    if at != len(tokens):
        raise Unreadable(tokens[at].line, f"unexpected {tokens[at].text!r}")
    return Field("", 1, fields=tuple(fields))


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind, token = str(match.lastgroup), match.group()
        if kind == "line":
            line += 1
        elif kind == "other":
            raise Unreadable(line, f"unexpected {token!r}")
        elif kind != "space":
            yield _Token(kind, token, line)


def _message(tokens: list[_Token], at: int, closing: str, depth: int) -> tuple[list[Field], int]:
    fields: list[Field] = []
    while at < len(tokens) and tokens[at].text != closing:
        name = tokens[at]
        if not _NAME.fullmatch(name.text) or depth > _DEEPEST:
            raise Unreadable(name.line, f"{name.text!r} stands where a field begins")
        found, at = _field(tokens, at + 1, name, depth)
        fields += found
    return fields, at


def _field(tokens: list[_Token], at: int, name: _Token, depth: int) -> tuple[list[Field], int]:
    if at < len(tokens) and tokens[at].text == ":":
        at += 1
    if at >= len(tokens):
        raise Unreadable(name.line, f"{name.text} has no value")
    if tokens[at].text != "[":
        field, at = _value(tokens, at, name, depth)
        return [field], at
    found, at = [], at + 1
    while at < len(tokens) and tokens[at].text != "]":
        field, at = _value(tokens, at, name, depth)
        found.append(field)
    if at >= len(tokens):
        raise Unreadable(name.line, f"the list of {name.text} has no end")
    return found, at + 1


def _value(tokens: list[_Token], at: int, name: _Token, depth: int) -> tuple[Field, int]:
    token = tokens[at]
    if token.text in _CLOSING and token.kind == "mark":
        fields, end = _message(tokens, at + 1, _CLOSING[token.text], depth + 1)
        if end >= len(tokens):
            raise Unreadable(token.line, f"{token.text!r} of {name.text} has no end")
        line = max(name.line, token.line)
        return Field(name.text, line, fields=tuple(fields)), end + 1
    if token.kind == "text":
        parts = []
        while at < len(tokens) and tokens[at].kind == "text":
            parts.append(_unquoted(tokens[at]))
            at += 1
        return Field(name.text, token.line, text="".join(parts), quoted=True), at
    if token.kind != "word":
        raise Unreadable(token.line, f"{name.text} has no value")
    return Field(name.text, token.line, text=token.text), at + 1


def _unquoted(token: _Token) -> str:
    """Undo the escapes, which are those of Python's bytes."""
    try:
        raw = ast.literal_eval("b" + _ascii(token.text))
        return bytes(raw).decode(errors="replace")
    except (ValueError, SyntaxError) as error:
        raise Unreadable(token.line, f"{token.text} is not closed well") from error


def _ascii(text: str) -> str:
    return "".join(
        character
        if character.isascii()
        else "".join(f"\\x{byte:02x}" for byte in character.encode())
        for character in text
    )
