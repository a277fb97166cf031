"""Judging without a server, through the installed command: what is tried, kept and said.

Proves that every candidate leaves a trace, that evidence judges again anywhere, and that what
cannot be measured is never passed off as an answer.
"""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_candidate_leaves_a_trace_that_the_next_one_shows(scored):
    first = json.loads((scored.folder / "first.json").read_text())
    second = scored.json(
        "release", "demo/release.toml", "--set", "quantize.recipe=int8_smoothquant"
    )
    shown = scored.json("show", second["release"])
    assert [attempt["recipe"].split()[0] for attempt in shown["attempts"]] == [
        "fp8",
        "int8_smoothquant",
    ]
    assert shown["about"]["candidates tried"] == "2 of 1"
    assert shown["about"]["profile"] == "standard"
    assert "int8_smoothquant" in scored.run("show", second["release"])[0]
    page = (Path(second["bundle"]) / "report" / "report.html").read_text()
    assert "This is candidate 2 against the same baseline" in page
    again = scored.json("release", "demo/release.toml")
    assert again["release"] == first["release"]
    assert len(scored.json("show", first["release"])["attempts"]) == 1
