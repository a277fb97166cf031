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


def test_a_gate_that_can_only_end_inconclusive_is_refused_before_any_work(scored, tmp_path):
    policy = tmp_path / "ten.toml"
    task = scored.folder / "demo" / "tasks" / "continuation.yaml"
    policy.write_text(f'[accuracy]\ntask = "{task}"\nlimit = 10\n')
    for command in ("plan", "gate", "release"):
        _, err = scored.run(command, "demo/release.toml", "--set", f"gates.policy={policy}", code=3)
        assert "accuracy can only end inconclusive: with 10 items" in err
        assert "give it 4," in err
        assert "…" not in err  # no stage began
    out, _ = scored.run(
        "gate", "demo/release.toml", "--power", "--set", f"gates.policy={policy}", code=3
    )
    assert "10 items" in out


def test_the_plan_says_what_the_gates_can_certify_and_learns_from_what_was_tried(scored):
    planned = scored.json("plan", "demo/release.toml")
    gates = {gate["gate"]: gate for gate in planned["power"]["gates"]}
    assert (gates["perplexity"]["units"], gates["accuracy"]["units"]) == (12, 60)
    assert 0.9 < planned["power"]["joint"] <= 1
    assert scored.json("gate", "demo/release.toml", "--power") == planned["power"]
    assert "0.013" not in gates["perplexity"]["assumed"]  # seen, no longer assumed
