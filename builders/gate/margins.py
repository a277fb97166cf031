"""Read a margin that a policy may leave out. Knows no gate."""

import sys
from typing import Final

from builders.parse import Table

_ABSENT: Final = sys.float_info.max


def optional(table: Table, key: str) -> float | None:
    """Read a margin; None says that the policy sets none, so that nothing is judged by it."""
    margin = table.number(key, _ABSENT)
    return None if margin == _ABSENT else margin
