"""A policy: which gates are required and how much harm each may do, said before measuring."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from builders.errors import UsageError
from builders.gate import GATES, load
from builders.parse import Table, read_toml

EXAMPLE: Final = '[perplexity]\ncorpus = ["corpus.jsonl"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The gates that a release must pass, each with its own settings, at one confidence."""

    name: str
    path: Path
    description: str
    confidence: float
    gates: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a policy file: a table for each gate that is required, one at least."""
        data = read_toml(path)
        with Table(data, place=str(path)) as table:
            confidence = table.number("confidence", 0.95)
            if not 0.5 < confidence < 1:
                raise UsageError(
                    f"{path}: confidence = {confidence} is not between 0.5 and 1",
                    hint="0.95 is usual: one bad candidate in twenty passes at the margin",
                )
            tables = {name: table.table(name) for name in GATES}
            gates = tuple(
                (name, _parse(name, tables[name], path, confidence))
                for name in GATES
                if name in data
            )
            policy = cls(
                name=table.text("name", path.stem),
                path=path,
                description=table.text("description", ""),
                confidence=confidence,
                gates=gates,
            )
        if not gates:
            raise UsageError(f"{path}: requires no gate", hint=f"add a table, such as {EXAMPLE}")
        return policy

    def check(self) -> None:
        """Refuse what cannot be measured, gate by gate, before any work."""
        for name, settings in self.gates:
            load(name).check(settings)


def _parse(name: str, table: Table, path: Path, confidence: float) -> object:
    """Let a gate read its table; what it finds wrong in it names the file."""
    try:
        return load(name).parse(table, beside=path.parent, confidence=confidence)
    except UsageError as error:
        if str(path) in str(error):
            raise
        raise UsageError(f"{path}: {error}", hint=error.hint) from error
