"""Other tools' results are judged by the same rules, and what is not of their shape is named.

The samples in assets/foreign were written by hand in the shapes that lm-eval 0.4.13, NeMo Evaluator
0.4, AIPerf 0.13 and guidellm 0.8 document; lm-eval's against a run of its own.
"""

import json
import shutil
from pathlib import Path

import pytest

from builders.errors import EvidenceError
from builders.gate import foreign
from builders.gate.policy import Policy
from builders.verdict import Outcome

ASSETS = Path(__file__).parents[1] / "assets" / "foreign"


def judged(folder, gate, **margins):
    policy = Policy.of(
        {gate: {**({"task": "any"} if gate == "accuracy" else {}), **margins}}, Path("p")
    )
    ((_, settings),) = policy.gates
    return foreign.judge(gate, folder / "baseline", folder / "candidate", settings)


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        return Path(shutil.copytree(ASSETS / name, tmp_path / name))

    return copy


def test_each_tool_is_recognized_by_the_files_it_leaves():
    known = {name: foreign.gates(ASSETS / name / "baseline") for name in
             ("lm_eval", "nemo", "aiperf", "guidellm")}  # fmt: skip
    assert known == {
        "lm_eval": ("accuracy",),
        "nemo": ("accuracy",),
        "aiperf": ("latency",),
        "guidellm": ("latency",),
    }
    assert foreign.gates(ASSETS) == ("accuracy", "latency")
    assert foreign.gates(Path(__file__).parent) == ()


def test_lm_evals_samples_are_paired_item_by_item():
    (verdict,) = judged(ASSETS / "lm_eval", "accuracy", margin=0.15)
    numbers = dict(verdict.numbers)
    assert (numbers["right to wrong"], numbers["wrong to right"], verdict.units) == (2.0, 1.0, 60)
    assert verdict.outcome is Outcome.PASSED
    assert verdict.label == "within-margin"  # never the stronger word without controls
    assert verdict.detail.endswith("; without controls")


def test_nemos_repeats_are_averaged_and_the_problem_counts():
    (verdict,) = judged(ASSETS / "nemo", "accuracy", margin=0.2)
    assert verdict.units == 40
    assert 0 < verdict.worse_by < 0.1
    assert verdict.low < verdict.worse_by < verdict.high


def test_aiperfs_runs_are_paired_and_a_small_slowdown_passes():
    ttft, itl = judged(ASSETS / "aiperf", "latency", ttft_margin=0.1, itl_margin=0.1)
    assert (ttft.gate, itl.gate, ttft.units) == ("latency.ttft_p50", "latency.itl_p50", 4)
    assert itl.worse_by == pytest.approx(0.02, abs=1e-3)
    assert {ttft.outcome, itl.outcome} == {Outcome.PASSED}
    assert "measured by AIPerf" in ttft.detail


def test_guidellms_benchmarks_are_runs_and_a_large_slowdown_fails():
    ttft, itl = judged(ASSETS / "guidellm", "latency", ttft_margin=0.1, itl_margin=0.1)
    assert itl.worse_by == pytest.approx(0.4, abs=0.01)
    assert {ttft.outcome, itl.outcome} == {Outcome.FAILED}


def test_guidellms_older_shape_reads_the_same(copied):
    folder = copied("guidellm")
    expected = judged(folder, "latency", itl_margin=0.1)
    for path in folder.rglob("*.json"):
        data = json.loads(path.read_text())
        for run in data["benchmarks"]:
            run["requests"]["successful"] = [
                {
                    "start_time": one["info"]["timings"]["request_start"],
                    "first_token_time": one["info"]["timings"]["first_token_iteration"],
                    "last_token_time": one["info"]["timings"]["last_token_iteration"],
                    "output_tokens": 16,
                }
                for one in run["requests"]["successful"]
            ]
        path.write_text(json.dumps(data))
    (found,) = judged(folder, "latency", itl_margin=0.1)
    assert found.worse_by == pytest.approx(expected[0].worse_by, abs=1e-9)


def spoil(path, **changes):
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | changes), *rest]) + "\n")


def one(folder, pattern):
    return next(iter(sorted(folder.rglob(pattern))))


@pytest.mark.parametrize(
    ("name", "pattern", "changes", "said"),
    [
        ("lm_eval", "candidate/**/*.jsonl", {"prompt_hash": "x"}, "different prompt_hash"),
        ("lm_eval", "candidate/**/*.jsonl", {"doc_id": 99}, "measured for the baseline only"),
        ("lm_eval", "baseline/**/*.jsonl", {"doc_id": 5}, "measured twice"),
        ("lm_eval", "baseline/**/*.jsonl", {"filtered_resps": [["nan", "False"]] * 4}, "finite"),
        ("lm_eval", "baseline/**/*.jsonl", {"filtered_resps": 3}, r":1: not of the shape"),
        ("nemo", "baseline/**/*.jsonl", {"reward": 3.0}, "reward 2.0"),
        ("nemo", "baseline/**/*.jsonl", {"reward": None}, r":1: not of the shape"),
        ("aiperf", "baseline/**/*.jsonl", {"error": {"code": 500}}, "failed: {'code': 500}"),
        ("aiperf", "baseline/**/*.jsonl", {"metrics": {}}, r":1: not of the shape"),
    ],
)
def test_what_cannot_be_judged_is_named(copied, name, pattern, changes, said):
    folder = copied(name)
    spoil(one(folder, pattern), **changes)
    with pytest.raises(EvidenceError, match=said):
        judged(folder, foreign.gates(folder / "baseline")[0])


def test_a_server_that_answered_every_choice_alike_is_void(copied):
    folder = copied("lm_eval")
    for path in folder.rglob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        same = [line | {"filtered_resps": [["0.0", "True"]] * 4, "acc": 1.0} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in same))
    with pytest.raises(
        EvidenceError, match="void, for the baseline all choices are equally likely"
    ):
        judged(folder, "accuracy")


def test_one_run_is_one_unit_and_proves_nothing(copied):
    folder = copied("aiperf")
    for path in folder.rglob("profile_export.jsonl"):
        if "0001" not in str(path):
            path.unlink()
    with pytest.raises(EvidenceError, match="1 runs of the baseline and 1 of the candidate"):
        judged(folder, "latency")


def test_failed_requests_and_cut_off_files_are_no_fast_ones(copied):
    folder = copied("guidellm")
    path = folder / "candidate" / "benchmarks.json"
    data = json.loads(path.read_text())
    data["benchmarks"][2]["requests"]["errored"] = [{}]
    path.write_text(json.dumps(data))
    with pytest.raises(EvidenceError, match="1 of 11 requests of a benchmark failed"):
        judged(folder, "latency")
    path.write_text(path.read_text()[:500])
    with pytest.raises(EvidenceError, match=r"benchmarks\.json: "):
        judged(folder, "latency")
    path.write_text("[]")
    with pytest.raises(EvidenceError, match="not of the shape"):
        judged(folder, "latency")
    torn = copied("lm_eval")
    samples = one(torn, "candidate/**/*.jsonl")
    samples.write_text(samples.read_text()[:-100])
    with pytest.raises(EvidenceError, match=r"jsonl:60: "):
        judged(torn, "accuracy")
    samples.write_text("")
    with pytest.raises(EvidenceError, match="no items in it"):
        judged(torn, "accuracy")
