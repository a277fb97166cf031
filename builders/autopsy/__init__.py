"""Examine a checkpoint, whoever made it: does it hold what it declares?

Reads headers, and of the data only scales and a few pieces of each weight. Standard library only.
"""

from builders.autopsy.finding import RULES, Finding, Severity
from builders.autopsy.inspection import LIMIT, Count, Inspection, Size, inspect
from builders.autopsy.recognize import METHODS, recognize
from builders.autopsy.recognized import Recognized

__all__ = [
    "LIMIT", "METHODS", "RULES", "Count", "Finding", "Inspection", "Recognized", "Severity", "Size",
    "inspect", "recognize",
]  # fmt: skip
