"""One defect of a model repository: where it stands, what is wrong, what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether Triton would refuse, hang or answer wrongly, or only do worse than it could."""

    STOP = "stop"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A defect in a file, relative to the repository; ``line`` is 0 where it has none."""

    rule: str
    file: str
    line: int
    what: str
    hint: str
    severity: Severity = Severity.STOP

    @property
    def stops(self) -> bool:
        """Whether the repository must not be served so."""
        return self.severity is Severity.STOP

    @property
    def where(self) -> str:
        """The file, and the line where there is one."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    def as_json(self) -> dict[str, object]:
        """Return it for scripts."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "what": self.what,
            "hint": self.hint,
        }
