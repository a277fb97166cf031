"""Command lines and YAML held against a version's contract, before anything is started.

argparse and click stop at the first fault, after minutes of imports, and argparse guesses
abbreviations; here every fault is told at once, and nothing is guessed.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from builders.engine.trtllm import contract
from builders.engine.trtllm.contract import Command, Key, Kind, Option, Read
from builders.errors import Refusal
from builders.ledger import Version
from builders.parse import nearest


def validate_argv(tool: str, version: str, argv: Sequence[str]) -> tuple[Refusal, ...]:
    """Return everything that this version's program would not take; empty when it takes it all."""
    known = contract.read(tool, version)
    if known is None:
        spans = "; ".join(str(one.span) for one in contract.reads(tool))
        return (Refusal(f"TensorRT-LLM {version} has no {tool}", f"it is known {spans}"),)
    if not argv or PurePath(argv[0]).name != tool:
        return (Refusal(f"the command line must start with {tool}", "put the program first"),)
    walk = _Walk(known=known, where=f"{tool} {version}", tokens=list(argv[1:]))
    return tuple(walk.refusals())


def validate_llm_args(version: str, mapping: Mapping[str, object]) -> tuple[Refusal, ...]:
    """Return every key that this version's LLM API would refuse, or take in another meaning."""
    known, at = contract.llm_args(), Version.parse(version)
    if not known.span.has(at):
        return (
            Refusal(
                f"TensorRT-LLM {version} is older than the LLM API's YAML known here",
                f"it is known {known.span}",
            ),
        )
    return (*_table(mapping, "", "", at), *_graphs(mapping), *_fraction(mapping))


@dataclass(slots=True, kw_only=True)
class _Walk:
    """One pass over a command line."""

    known: Read
    where: str
    tokens: list[str]
    command: Command = field(init=False)
    waiting: list[str] = field(init=False)
    given: set[tuple[str, ...]] = field(default_factory=set)
    chosen: bool = False

    def __post_init__(self) -> None:
        self._enter(self.known.top)
        self.chosen = not self.known.commands

    def refusals(self) -> Iterator[Refusal]:
        while self.tokens:
            token = self.tokens.pop(0)
            if token.startswith("-"):
                yield from self._option(token)
            else:
                yield from self._word(token)
        yield from self._left_out()
        if self.waiting:
            yield Refusal(f"{self.where} needs {self.waiting[0]}", "give it")
        if not self.chosen:
            names = ", ".join(self.known.commands)
            yield Refusal(f"{self.where} needs a command", f"known: {names}")

    def _enter(self, command: Command) -> None:
        self.command, self.waiting, self.given = command, list(command.positional), set()

    def _word(self, token: str) -> Iterator[Refusal]:
        if self.waiting:
            self.waiting.pop(0)
            yield from _faults(Kind(name="path"), token, f"{self.where}: argument")
        elif not self.chosen:
            self.chosen = True
            if token in self.known.commands:
                yield from self._left_out()
                self._enter(self.known.commands[token])
            else:
                hint = nearest(token, self.known.commands)
                yield Refusal(f"{self.where} has no command {token!r}", hint)
        else:
            yield Refusal(f"{self.where}: {token!r} belongs to no option", "leave it out")

    def _left_out(self) -> Iterator[Refusal]:
        for option in self.command.options:
            if option.required and option.flags not in self.given:
                yield Refusal(f"{self.where} needs {option.flags[-1]}", "give it")

    def _option(self, token: str) -> Iterator[Refusal]:
        flag, equals, value = token.partition("=")
        option = self.command.option(flag)
        if option is None:
            hint = nearest(flag, self.command.flags)
            yield Refusal(f"{self.where} has no option {flag}", hint)
            return
        if option.flags in self.given and not option.repeat:
            yield Refusal(f"{self.where}: {flag} is given twice", "say it once")
        self.given.add(option.flags)
        if option.kind.name == "flag":
            if equals:
                yield Refusal(f"{self.where}: {flag} takes no value", f"write {flag} alone")
            return
        values = [value] if equals else self._values(option)
        if not values:
            yield Refusal(f"{self.where}: {flag} needs a value", _wanted(option.kind))
        for one in values:
            yield from _faults(option.kind, one, f"{self.where}: {flag}")

    def _values(self, option: Option) -> list[str]:
        found: list[str] = []
        while self.tokens and (option.many or not found) and not self._is_flag(self.tokens[0]):
            found.append(self.tokens.pop(0))
        return found

    def _is_flag(self, token: str) -> bool:
        return token.startswith("--") or self.command.option(token) is not None


def _faults(kind: Kind, value: str, where: str) -> Iterator[Refusal]:
    """A value on a command line is text; what it must look like depends on its kind."""
    if kind.name in {"int", "float"}:
        fits = _is_number(value, whole=kind.name == "int")
    elif kind.name == "enum":
        fits = value in kind.choices
    else:
        fits = bool(value) and value.isprintable() and not value.startswith("-")
    if not fits:
        hint = nearest(value, kind.choices) if kind.choices else _wanted(kind)
        yield Refusal(f"{where} cannot be {value!r}", hint)


def _is_number(value: str, *, whole: bool) -> bool:
    return bool((_WHOLE if whole else _DECIMAL).fullmatch(value))


_WHOLE: Final = re.compile(r"-?[0-9]+")
_DECIMAL: Final = re.compile(r"-?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text of one line",
    "path": "a path that does not start with -",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "dict": "a table",
}


def _wanted(kind: Kind) -> str:
    if kind.choices:
        return f"it takes {', '.join(kind.choices)}"
    return f"it takes {_WORDS.get(kind.name, 'a table')}"


def _table(
    mapping: Mapping[str, object], table: str, prefix: str, at: Version
) -> Iterator[Refusal]:
    known = contract.llm_args()
    yield from _entries(mapping, known.tables[table], prefix, at)


def _entries(
    mapping: Mapping[str, object], keys: Mapping[str, Key], prefix: str, at: Version
) -> Iterator[Refusal]:
    for name, value in mapping.items():
        key = keys.get(name)
        if key is None:
            yield _unknown(name, prefix, keys, at)
        elif not key.span.has(at):
            reason = f"TensorRT-LLM {at} does not know {prefix}{name}"
            yield Refusal(reason, f"it is known {key.span}; leave it out")
        elif value is not None or not key.null:
            yield from _value(key.kind, value, f"{prefix}{name}", at)
    for name, key in keys.items():
        if key.required and name not in mapping:
            yield Refusal(f"{prefix}{name} is missing", _wanted(key.kind))


def _unknown(name: str, prefix: str, keys: Mapping[str, Key], at: Version) -> Refusal:
    gone = contract.llm_args().retired.get(name)
    if gone and not prefix:
        return Refusal(f"{name} is no key of TensorRT-LLM {at}", gone)
    known = [key for key, entry in keys.items() if entry.span.has(at)]
    return Refusal(f"TensorRT-LLM {at} has no key {prefix}{name}", nearest(name, known))


def _value(kind: Kind, value: object, where: str, at: Version) -> Iterator[Refusal]:
    if kind.name == "speculative":
        yield from _speculative(value, where, at)
    elif kind.name.startswith("table:"):
        if isinstance(value, Mapping):
            yield from _table(value, kind.name.removeprefix("table:"), f"{where}.", at)
        else:
            yield Refusal(f"{where} cannot be {value!r}", "it takes a table")
    elif not _fits(kind, value):
        text = str(value)
        hint = nearest(text, kind.choices) if kind.choices else _wanted(kind)
        yield Refusal(f"{where} cannot be {value!r}", hint)


def _fits(kind: Kind, value: object) -> bool:
    if kind.name.startswith("list["):
        inner = Kind(name=kind.name[5:-1], choices=kind.choices)
        return isinstance(value, list | tuple) and all(_fits(inner, one) for one in value)
    if kind.name == "any":
        return True
    if kind.name == "enum":
        return isinstance(value, str) and value in kind.choices
    if kind.name == "float":
        return _is(value, int | float) and math.isfinite(float(str(value)))
    types = {"int": int, "bool": bool, "str": str, "dict": Mapping}
    return _is(value, types[kind.name])


def _is(value: object, wanted: object) -> bool:
    """Python's booleans are whole numbers; YAML's are not."""
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted)  # type: ignore[arg-type]


def _speculative(value: object, where: str, at: Version) -> Iterator[Refusal]:
    known = contract.llm_args().speculative
    rest = dict(value) if isinstance(value, Mapping) else {}
    name = str(rest.pop("decoding_type", ""))
    open_to = {kind: one for kind, one in known.items() if one.span.has(at)}
    if name not in open_to:
        hint = nearest(name, open_to)
        yield Refusal(f"{where}.decoding_type cannot be {name!r} in TensorRT-LLM {at}", hint)
        return
    yield from _entries(rest, open_to[name].keys, f"{where}.", at)


def _graphs(mapping: Mapping[str, object]) -> Iterator[Refusal]:
    """CudaGraphConfig raises when its batch sizes do not end at its own maximum."""
    graphs = mapping.get("cuda_graph_config")
    if not isinstance(graphs, Mapping):
        return
    sizes, most = graphs.get("batch_sizes"), graphs.get("max_batch_size")
    if not isinstance(sizes, list | tuple) or not sizes or not isinstance(most, int):
        return
    if all(isinstance(size, int) for size in sizes) and max(sizes) != most and most:
        yield Refusal(
            f"cuda_graph_config.max_batch_size is {most}, its batch_sizes end at {max(sizes)}",
            "give one of the two, or let them agree",
        )


def _fraction(mapping: Mapping[str, object]) -> Iterator[Refusal]:
    kv = mapping.get("kv_cache_config")
    fraction = kv.get("free_gpu_memory_fraction") if isinstance(kv, Mapping) else None
    if isinstance(fraction, int | float) and not 0 < fraction <= 1:
        yield Refusal(
            f"kv_cache_config.free_gpu_memory_fraction cannot be {fraction}",
            "it is a fraction of the memory left free by the weights, such as 0.9",
        )
