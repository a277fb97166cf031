"""Turn finished facts and verdicts into what people and machines read. Measures nothing.

`as_html` is the page in the bundle, `as_markdown` a CI step summary, `as_text` the terminal's last
lines, `as_json` what ``release --json`` prints, `as_junit` and `annotations` what a CI shows. All
are pure: equal input, equal output.
"""

from builders.report.github import annotations
from builders.report.junit import as_junit
from builders.report.model import (
    Attempt,
    Change,
    Changes,
    Divergence,
    Landing,
    Latency,
    Report,
    Samples,
    Sizes,
    Stage,
    Subject,
)
from builders.report.page import as_html
from builders.report.summary import as_json, as_markdown, as_text

__all__ = [
    "Attempt",
    "Change",
    "Changes",
    "Divergence",
    "Landing",
    "Latency",
    "Report",
    "Samples",
    "Sizes",
    "Stage",
    "Subject",
    "annotations",
    "as_html",
    "as_json",
    "as_junit",
    "as_markdown",
    "as_text",
]
