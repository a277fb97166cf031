"""Judging without a server, through the installed command: what is tried, kept and said.

Proves that every candidate leaves a trace, that evidence judges again anywhere, and that what
cannot be measured is never passed off as an answer.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fakes.bare import bare

pytestmark = pytest.mark.slow
COMMAND = Path(sys.executable).parent / "enginesmith"
ASSETS = Path(__file__).parents[1] / "assets" / "foreign"


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


def test_a_bundle_judges_again_to_the_bit_on_a_base_install(scored, tmp_path):
    first = json.loads((scored.folder / "first.json").read_text())
    elsewhere = shutil.copytree(first["bundle"], tmp_path / "elsewhere")
    found = json.loads(bare("judge", elsewhere, "--json")[0])
    assert found["recorded"] == "reproduced"
    assert found["gates"] == first["gates"]
    assert found["outcome"] == "passed"
    text, _ = bare("judge", elsewhere)
    assert "recorded verdicts: reproduced" in text


def test_a_bundle_of_all_gates_judges_again_to_the_bit_on_a_base_install(first, tmp_path):
    elsewhere = shutil.copytree(first["bundle"], tmp_path / "elsewhere")
    found = json.loads(bare("judge", elsewhere, "--json")[0])
    assert found["recorded"] == "reproduced"
    assert found["gates"] == first["gates"]
    for gate in ("perplexity", "accuracy", "prompts", "latency"):
        for control in ("again", "damaged"):
            assert (elsewhere / "evidence" / gate / control / "samples.jsonl").is_file()
    shutil.rmtree(elsewhere / "evidence" / "latency" / "damaged")
    assert "latency: the control 'damaged' was not" in bare("judge", elsewhere, code=5)[1]


def test_another_policy_judges_the_same_evidence_anew(scored, tmp_path):
    first = json.loads((scored.folder / "first.json").read_text())
    strict = tmp_path / "strict.toml"
    text = (Path(first["bundle"]) / "policy.toml").read_text()
    strict.write_text(text.replace("margin = 0.5", "margin = 0.01"))
    found = json.loads(bare("judge", first["bundle"], "--policy", strict, "--json", code=11)[0])
    assert found["recorded"] == ""
    more = tmp_path / "more.toml"
    more.write_text(f"{text}\n[prompts]\n")
    found = json.loads(bare("judge", first["bundle"], "--policy", more, "--json", code=11)[0])
    assert found["missing"] == ["prompts"]


def test_what_gate_leaves_in_a_folder_can_be_judged_and_compared(scored, tmp_path):
    scored.run("gate", "demo/release.toml", "--out", tmp_path / "a")
    scored.run(
        "gate", "demo/release.toml", "--set", "quantize.recipe=int8_smoothquant",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert (tmp_path / "a" / "report" / "report.html").exists()
    assert "reproduced" in bare("judge", tmp_path / "a")[0]
    found = json.loads(bare("compare", tmp_path / "a", tmp_path / "b", "--json")[0])
    assert {gate["gate"] for gate in found["gates"]} == {"perplexity", "accuracy"}
    same = json.loads(bare("compare", tmp_path / "a", tmp_path / "a", "--json")[0])
    assert {gate["worse_by"] for gate in same["gates"]} == {0.0}


def test_verdicts_that_the_evidence_does_not_give_are_refused(scored, tmp_path):
    first = json.loads((scored.folder / "first.json").read_text())
    copy = shutil.copytree(first["bundle"], tmp_path / "copy", copy_function=shutil.copyfile)
    path = copy / "verdicts" / "verdicts.json"
    verdicts = json.loads(path.read_text())
    verdicts[0]["high"] /= 2
    path.write_text(json.dumps(verdicts))
    _, err = bare("judge", copy, code=6)
    assert "are not what the evidence beside them says" in err
    path.write_text("[{}]")
    assert "no verdicts" in bare("judge", copy, code=6)[1]
    (copy / "evidence" / "accuracy" / "damaged" / "samples.jsonl").unlink()
    path.unlink()
    assert "control 'damaged' was not measured" in bare("judge", copy, code=5)[1]


@pytest.mark.parametrize(
    ("name", "code"), [("lm_eval", 11), ("nemo", 11), ("aiperf", 0), ("guidellm", 10)]
)
def test_other_tools_results_are_judged_from_the_command_line(name, code):
    folder = ASSETS / name
    judged = json.loads(bare("judge", folder, "--json", code=code)[0])
    sides = folder / "baseline", folder / "candidate"
    compared = json.loads(bare("compare", *sides, "--json", code=code)[0])
    assert judged["gates"] == compared["gates"]
    assert judged["policy"] == "standard profile"


def test_what_is_no_evidence_is_said(tmp_path):
    assert "no such folder" in bare("judge", tmp_path / "none", code=5)[1]
    assert "no such file or folder" in bare("compare", tmp_path, tmp_path / "none", code=2)[1]
    assert "no results of the same kind" in bare("compare", tmp_path, tmp_path, code=5)[1]


def on_github(scored, tmp_path, *arguments, code):
    """Run a command as GitHub would; return stderr, the step summary and JUnit's cases."""
    summary, junit = tmp_path / "summary.md", tmp_path / "out" / "junit.xml"
    env = os.environ | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    env |= {"ENGINESMITH_HOME": str(scored.folder / ".enginesmith")}
    done = subprocess.run(
        [COMMAND, *map(str, arguments), "--junit", junit, "--json"],
        capture_output=True, text=True, check=False, cwd=scored.folder, env=env,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    return done, summary.read_text(), {case.get("name"): case for case in suite}


def test_a_ci_is_told_of_every_gate(scored, tmp_path):
    done, summary, cases = on_github(scored, tmp_path, "gate", "demo/release.toml", code=0)
    json.loads(done.stdout)
    assert "::error" not in done.stderr
    assert summary.startswith("## ✓ GO: demo → cpu/stable")
    assert set(cases) == {"perplexity", "accuracy"}
    _, summary, cases = on_github(scored, tmp_path, "judge", ASSETS / "guidellm", code=10)
    assert "## ✗ NO-GO: " in summary
    assert cases["latency.itl_p50"].find("failure").get("type") == "failed"


def test_a_ci_is_told_of_a_gate_that_is_void_and_the_attempt_is_kept(scored, tmp_path):
    policy = tmp_path / "void.toml"
    text = (
        (scored.folder / "demo" / "policy.toml").read_text().replace("margin = 0.2", "margin = 0.4")
    )
    demo = scored.folder / "demo"
    policy.write_text(text.replace('"corpus.jsonl"', f'"{demo}/corpus.jsonl"').replace(
        '"tasks/', f'"{demo}/tasks/'))  # fmt: skip
    done, summary, cases = on_github(
        scored, tmp_path, "gate", "demo/release.toml", "--set", f"gates.policy={policy}", code=5
    )
    assert "::error title=accuracy%3A could not be measured::accuracy: void" in done.stderr
    assert "accuracy could not be measured" in summary
    assert "void" in cases["accuracy"].find("error").get("message")
    logs = (scored.folder / ".enginesmith" / "store" / "attempts").glob("*.json")
    outcomes = [entry["outcome"] for log in logs for entry in json.loads(log.read_text())]
    assert "void" in outcomes


def test_the_report_shows_what_changed_in_which_subject_and_where(scored):
    first = json.loads((scored.folder / "first.json").read_text())
    page = (Path(first["bundle"]) / "report" / "report.html").read_text()
    for section in ("Divergence by place", "What changed", "Candidates tried"):
        assert section in page, section
    assert "baseline against itself" in page
