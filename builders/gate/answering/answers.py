"""The user's prompts: what is asked, and what a right answer looks like. Knows no server."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from builders.errors import UsageError
from builders.gate import jsonl
from builders.gate.answering import custom, scorers
from builders.parse import Table, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of a prompt file: what is asked, and what a right answer looks like."""

    id: str
    prompt: str
    scorer: str
    expect: tuple[str, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_case: bool = False
    choices: tuple[str, ...] = ()
    tolerance: float = 0.0
    group: str = ""
    rule: scorers.Scorer

    @classmethod
    def parse(cls, data: Mapping[str, object], *, place: str, defaults: "Defaults") -> Self:
        """Read one line's object; the defaults hold where the line is silent."""
        with Table({**data, "expect": _several(data.get("expect", []))}, place=place) as table:
            name = table.text("scorer")
            prompt = cls(
                id=table.text("id", defaults.id),
                prompt=table.text("prompt"),
                scorer=name,
                expect=table.texts("expect"),
                max_tokens=table.whole("max_tokens", defaults.max_tokens, least=1),
                stop=table.texts("stop", ()),
                ignore_case=table.flag("ignore_case", default=False),
                choices=table.texts("choices", ()),
                tolerance=table.number("tolerance", 0.0),
                group=table.text("group", ""),
                rule=_rule(name, place, defaults.own),
            )
        prompt.check(place)
        return prompt

    def check(self, place: str) -> None:
        """Refuse what cannot be scored; ``place`` is the file and line."""
        lacking = self.rule.needs_expectation and not self.expect
        if not self.prompt or lacking or not all(self.expect):
            raise UsageError(
                f"{place}: an empty prompt or expectation",
                hint="prompt and expect need at least one character",
            )
        self.rule.check(self, place)

    def score(self, answer: str) -> float:
        """Return how right an answer is, from 0.0 to 1.0."""
        return self.rule.score(self, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a line says nothing, and the scorers of the user's own that may run."""

    id: str
    max_tokens: int
    own: Mapping[str, scorers.Scorer]


def read(path: Path, *, max_tokens: int, own: Sequence[str] = ()) -> tuple[Prompt, ...]:
    """Read a prompt file (JSONL); every fault is a `UsageError` that names the line.

    ``own`` names scorers of the user's own, as ``module:function``; no other code is run.
    """
    mine = {name: custom.load(name, beside=path.parent) for name in own}
    found: dict[str, Prompt] = {}
    for number, data in jsonl.objects(path):
        place = f"{path}:{number}"
        defaults = Defaults(id=f"line-{number}", max_tokens=max_tokens, own=mine)
        prompt = Prompt.parse(data, place=place, defaults=defaults)
        if prompt.id in found:
            raise UsageError(f"{place}: id {prompt.id!r} stands in an earlier line too")
        found[prompt.id] = prompt
    if len(found) < 2:
        raise UsageError(f"{path}: {len(found)} prompts", hint="a gate needs two at the very least")
    return tuple(found.values())


def _several(value: object) -> object:
    """Let one expectation stand for a list of one, a number for its digits, a schema for itself."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, Mapping):
        value = json.dumps(value, sort_keys=True)
    return [value] if isinstance(value, str) else value


def _rule(name: str, place: str, own: Mapping[str, scorers.Scorer]) -> scorers.Scorer:
    if name in own:
        return own[name]
    known = (*scorers.SCORERS, *scorers.LIBRARIES, *own)
    if ":" in name:
        raise UsageError(
            f"{place}: the policy does not let {name} run",
            hint=f'add it to the policy, under [prompts]: scorers = ["{name}"]',
        )
    if name not in known:
        raise UsageError(f"{place}: unknown scorer {name!r}", hint=nearest(name, known))
    return scorers.load(name)
