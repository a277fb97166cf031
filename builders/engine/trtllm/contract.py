"""What TensorRT-LLM's command lines and YAML take, by version: read from `contracts/*.json`.

Each file names the source it was read from and which versions that read speaks for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

from builders.errors import UsageError
from builders.ledger import Version
from builders.parse import nearest

TOOLS: Final = ("trtllm-build", "trtllm-serve", "trtllm-bench", "trtllm-eval")
LLM_ARGS: Final = "llm-args"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The versions something holds for: from ``since`` on, ``before`` excluded ("" : no bound)."""

    since: str = ""
    before: str = ""

    def has(self, version: Version) -> bool:
        """Whether a version lies in it."""
        return (not self.since or version >= Version.parse(self.since)) and (
            not self.before or version < Version.parse(self.before)
        )

    def __str__(self) -> str:
        since = f"from {self.since} on" if self.since else ""
        before = f"before {self.before}" if self.before else ""
        return ", ".join(part for part in (since, before) if part) or "every version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a value may be: int, str, path, flag, enum, ``list[int]``, ``table:Name`` and so on."""

    name: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One command-line option: its spellings, its value, and how often it may be given."""

    flags: tuple[str, ...]
    kind: Kind
    many: bool = False
    repeat: bool = False
    required: bool = False
    default: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The arguments and options of a program or of one of its subcommands."""

    positional: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()

    def option(self, flag: str) -> Option | None:
        """Find an option by one of its spellings."""
        return next((one for one in self.options if flag in one.flags), None)

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling of every option."""
        return tuple(flag for one in self.options for flag in one.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One read of a program's options: for which versions, from where."""

    span: Span
    source: str
    top: Command
    commands: Mapping[str, Command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a YAML table: its value, whether it may be null, and the versions that know it."""

    kind: Kind
    span: Span
    null: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """One kind of speculative decoding and its keys."""

    span: Span
    keys: Mapping[str, Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmArgs:
    """The LLM API's keys: tables by name (the top is ""), and what became of retired keys."""

    span: Span
    tables: Mapping[str, Mapping[str, Key]]
    speculative: Mapping[str, Decoding]
    retired: Mapping[str, str] = field(default_factory=dict)


def read(tool: str, version: str) -> Read | None:
    """Return what is known of a program in one version; None when it has no such program."""
    if tool not in TOOLS:
        raise UsageError(f"unknown program {tool!r}", hint=nearest(tool, TOOLS))
    at = Version.parse(version)
    return next((one for one in reads(tool) if one.span.has(at)), None)


@cache
def reads(tool: str) -> tuple[Read, ...]:
    """Return every read of a program, oldest first."""
    return tuple(_read(entry) for entry in _data(tool)["reads"])


@cache
def llm_args() -> LlmArgs:
    """Return the keys of the LLM API's YAML."""
    data = _data(LLM_ARGS)
    return LlmArgs(
        span=_span(data),
        tables={name: _keys(keys) for name, keys in data["tables"].items()},
        speculative={
            name: Decoding(span=_span(entry), keys=_keys(entry["keys"]))
            for name, entry in data["speculative"].items()
        },
        retired=data["retired"],
    )


# The files are this package's own; a test reads each of them whole.
_Json = Mapping[str, Any]


def _data(name: str) -> _Json:
    path = resources.files("builders.engine.trtllm") / "contracts" / f"{name}.json"
    data: _Json = json.loads(path.read_text(encoding="utf-8"))
    return data


def _read(entry: _Json) -> Read:
    return Read(
        span=_span(entry),
        source=entry["source"],
        top=_command(entry),
        commands={name: _command(command) for name, command in entry["commands"].items()},
    )


def _command(entry: _Json) -> Command:
    return Command(
        positional=tuple(entry["positional"]), options=tuple(map(_option, entry["options"]))
    )


def _option(entry: _Json) -> Option:
    return Option(
        flags=tuple(entry["flags"]),
        kind=_kind(entry),
        many=entry.get("many", False),
        repeat=entry.get("repeat", False),
        required=entry.get("required", False),
        default=entry.get("default"),
    )


def _keys(entries: _Json) -> dict[str, Key]:
    return {name: _key(entry) for name, entry in entries.items()}


def _key(entry: _Json) -> Key:
    return Key(
        kind=_kind(entry),
        span=_span(entry),
        null=entry.get("null", False),
        required=entry.get("required", False),
    )


def _kind(entry: _Json) -> Kind:
    return Kind(name=entry["type"], choices=tuple(entry.get("choices", ())))


def _span(entry: _Json) -> Span:
    return Span(since=entry.get("since", ""), before=entry.get("before", ""))
