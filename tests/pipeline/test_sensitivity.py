"""``enginesmith sensitivity`` measures once, prints a table, and leaves a heat map."""

import json

import pytest


@pytest.mark.slow
def test_a_table_a_heat_map_and_nothing_measured_twice(fresh):
    few = ("--set", "quantize.calibration.length=48")
    arguments = ("sensitivity", "demo/release.toml", *few, "--formats", "fp8,int4_rtn")
    out, _ = fresh.run(*arguments, "--most", "3", "--out", "map")
    lines = out.splitlines()
    assert lines[0].split() == ["recipe", "layer", "block", "divergence", "changed"]
    assert lines[1].startswith("int4_rtn")
    assert len(lines) == 4 + 2
    assert lines[-1] == "heat map map/sensitivity.html"
    assert {path.name for path in (fresh.folder / "map").iterdir()} == {
        "sensitivity.html",
        "sensitivity.json",
        "sensitivity.svg",
    }
    again, err = fresh.run(*arguments, "--json")
    assert "sensitivity: done before" in err
    assert len(json.loads(again)["costs"]) == 2 * 4 * 4
    _, err = fresh.run(*arguments[:-1], "fp9", code=2)
    assert "'fp9' is no recipe" in err
    assert not any((fresh.folder / ".enginesmith" / "store" / "unfinished").iterdir())
