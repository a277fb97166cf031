"""An early look ends a hopeless candidate, through the installed command, and never helps one.

Proves that nothing more is measured than needed, that all say so, and that it judges again.
"""

import json
import shutil
from pathlib import Path

import pytest

from fakes.bare import bare

pytestmark = pytest.mark.slow


def names(judged):
    return {stage["name"] for stage in judged["stages"]}


def test_a_hopeless_candidate_fails_at_a_first_look_and_no_more_is_measured(early, tmp_path):
    judged = early.json("gate", "demo/too-far.toml", "--out", tmp_path / "left", code=10)
    assert judged["outcome"] == "failed"
    (gate,) = judged["gates"]
    assert (gate["gate"], gate["label"], gate["early"]) == ("perplexity", "worse-early", True)
    assert gate["units"] == 16
    assert "perplexity/early" in names(judged)
    assert not {"perplexity/candidate", "accuracy/baseline"} & names(judged)
    page = (tmp_path / "left" / "report" / "report.html").read_text()
    assert "An early look at 16 units was enough" in page
    assert "nor was accuracy" in page
    elsewhere = (tmp_path / "left").rename(tmp_path / "elsewhere")
    again = json.loads(bare("judge", elsewhere, "--json", code=10)[0])
    assert again["recorded"] == "reproduced"
    assert again["gates"] == judged["gates"]
    assert again["missing"] == ["accuracy"]
    wide = tmp_path / "wide.toml"
    text = (elsewhere / "policy.toml").read_text()
    wide.write_text(text.replace("margin = 0.05", "margin = 5.0"))
    _, err = bare("judge", elsewhere, "--policy", wide, code=5)
    assert "was looked at early and not measured" in err


def test_a_second_run_looks_no_more_and_a_dry_run_names_no_other_stage(early):
    judged = early.json("gate", "demo/too-far.toml", code=10)
    assert all(stage["cached"] for stage in judged["stages"])
    told = early.json("cache", "why", "demo/too-far.toml")["stages"]
    assert set(told.values()) == {"done before"}
    assert "perplexity/early" in told
    assert not any(name.startswith("accuracy") for name in told)


def test_a_look_that_is_not_hopeless_is_followed_by_the_whole_and_the_log_tells_of_both(early):
    released = early.json("release", "demo/release.toml")
    assert {"perplexity/early", "perplexity/candidate", "accuracy/candidate"} <= names(released)
    assert "accuracy/early" not in names(released)  # as many items as there are
    assert not any(gate["early"] for gate in released["gates"])
    shown = early.json("show", released["release"])
    tried = [attempt["outcome"] for attempt in shown["attempts"]]
    assert tried == ["failed, early", "passed"]
    bundle = shutil.copytree(released["bundle"], early.folder / "copy")
    assert (bundle / "evidence" / "perplexity" / "early" / "samples.jsonl").is_file()
    assert json.loads(bare("judge", bundle, "--json")[0])["recorded"] == "reproduced"
    shutil.rmtree(bundle / "evidence" / "perplexity" / "early")
    assert json.loads(bare("judge", bundle, "--json")[0])["recorded"] == "reproduced"


def test_switched_off_the_whole_candidate_is_measured(early):
    policy = early.folder / "demo" / "policy.toml"
    kept = policy.read_text()
    policy.write_text(f"{kept}\n[early]\nconfidence = 1\n")
    try:
        judged = early.json("gate", "demo/too-far.toml", code=10)
    finally:
        policy.write_text(kept)
    assert {"perplexity/candidate", "accuracy/candidate"} <= names(judged)
    assert {gate["label"] for gate in judged["gates"]} <= {"worse", "within-margin", "inconclusive"}
    assert Path(judged["bundle"]).exists()
