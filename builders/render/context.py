"""All that a template may see. Knows nothing of Jinja, and takes no value that has no place."""

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from builders.errors import UsageError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
INT32_MAX: Final = 2**31 - 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


def _installed() -> str:
    return version("enginesmith")


def refuse_name(name: str) -> None:
    """Refuse what cannot name a model at Triton, and so a directory."""
    if not NAME.match(name) or ".." in name:
        raise UsageError(
            f"serve.name {name!r} cannot name a model",
            hint="up to 128 letters, digits, _ . and -, a letter or digit first, never ..",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The facts of one model repository; its field names are the template's only variables.

    ``name`` is the model's name at Triton and a directory's; ``context`` the longest sequence in
    tokens, ``concurrency`` the requests answered at once, ``max_tokens`` what a request gets that
    asks for no number, ``enginesmith`` the version that renders.
    """

    name: str
    context: int
    concurrency: int
    engine_digest: str
    gpu: bool = False
    max_tokens: int = 128
    enginesmith: str = field(default_factory=_installed)

    def __post_init__(self) -> None:
        refuse_name(self.name)
        if not _DIGEST.match(self.engine_digest):
            raise UsageError(f"{self.engine_digest!r} is not a SHA-256 in hex")
        for what in ("context", "concurrency", "max_tokens"):
            value = getattr(self, what)
            if isinstance(value, bool) or not 1 <= value <= INT32_MAX:
                raise UsageError(
                    f"serve.{what} {value!r} is out of range", hint=f"1 to {INT32_MAX}"
                )
