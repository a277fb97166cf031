"""Version numbers of runtimes and containers, ordered as their makers order them."""

import re
from dataclasses import dataclass, field
from typing import Final, Self

from builders.errors import UsageError

_FORM: Final = re.compile(r"v?(\d+(?:\.\d+)*)(?:rc(\d+))?(?:\.post(\d+))?(?:\+[\w.]+)?\Z")
_FINAL: Final = 1 << 30  # sorts a release behind all of its candidates


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version: ``1.3.0rc9 < 1.3.0rc20 < 1.3.0 < 1.3.0.post1``; ``1.2`` equals ``1.2.0``."""

    release: tuple[int, ...]
    candidate: int
    post: int
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1.2.1``, ``1.3.0rc20``, ``0.17.0.post1`` or a container tag such as ``25.07``."""
        found = _FORM.match(text)
        if not found:
            raise UsageError(
                f"{text!r} is not a version", hint="write it like 1.2.1, 1.3.0rc20 or 25.07"
            )
        numbers, candidate, post = found.groups()
        release = tuple(int(part) for part in numbers.split("."))
        while len(release) > 1 and release[-1] == 0:
            release = release[:-1]
        return cls(release, int(candidate) if candidate else _FINAL, int(post or 0), text)

    @property
    def stable(self) -> bool:
        """Whether this is a release, not a candidate for one."""
        return self.candidate == _FINAL

    def __str__(self) -> str:
        return self.text
