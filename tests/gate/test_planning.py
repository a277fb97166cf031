"""What a policy can certify is counted from its files; earlier candidates know better."""

import json

import pytest

from builders.gate import planning
from builders.gate.policy import Policy
from builders.verdict import Verdict

TASK = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    train: shots.jsonl
    test: items.jsonl
test_split: test
"""


def suite(folder, text, seen=None):
    (folder / "policy.toml").write_text(text)
    found = planning.suite(Policy.read(folder / "policy.toml"), seen)
    return {gate.gate: gate for gate in found.gates}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "items.jsonl").write_text("{}\n" * 321)
    (tmp_path / "shots.jsonl").write_text("{}\n" * 5)
    lines = [
        json.dumps({"id": str(n), "prompt": "a", "expect": "b", "scorer": "exact"})
        for n in range(50)
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    texts = [json.dumps({"text": "word " * 800}) for _ in range(6)]
    (tmp_path / "c.jsonl").write_text("\n".join(texts))
    return tmp_path


def test_items_of_ones_own_task_are_counted_in_its_own_split(folder):
    assert suite(folder, '[accuracy]\ntask = "mine.yaml"')["accuracy"].units == 321
    assert suite(folder, '[accuracy]\ntask = "mine.yaml"\nlimit = 99')["accuracy"].units == 99


@pytest.mark.parametrize("change", ["items.jsonl", "include: more.yaml", "items.csv"])
def test_what_only_lm_eval_can_count_is_left_open(folder, change):
    text = TASK.replace("items.jsonl", "items.csv") if change == "items.csv" else TASK
    text = text.replace("test_split: test", "") if change == "items.jsonl" else text
    (folder / "mine.yaml").write_text(text + (change if "include" in change else ""))
    found = suite(folder, '[accuracy]\ntask = "mine.yaml"')["accuracy"]
    assert (found.units, found.power, found.hopeless) == (None, None, False)
    assert found.enough > 1000


@pytest.mark.parametrize(
    ("task", "limit", "units"),
    [("mmlu", 0, 14042), ("mmlu", 10, 570), ("hellaswag", 100, 100), ("nobody_knows", 0, None)],
)
def test_known_tasks_have_known_sizes(folder, task, limit, units):
    text = f'[accuracy]\ntask = "{task}"\nlimit = {limit}'
    assert suite(folder, text)["accuracy"].units == units


@pytest.mark.parametrize(
    ("more", "units"),
    [
        ("", 12),  # 6 texts of about 1,000 tokens, two windows of 512 each
        ("windows = 5", 5),
        ('documents = "joined"', 12),
        ('documents = "gptq"', 11),
        ("stride = 128", 30),
    ],
)
def test_windows_are_estimated_from_the_length_of_the_text(folder, more, units):
    text = f'[perplexity]\ncorpus = ["c.jsonl"]\nwindow = 512\n{more}'
    assert suite(folder, text)["perplexity"].units == pytest.approx(units, abs=1)


def test_a_corpus_on_the_hub_is_not_fetched_to_plan(folder):
    text = f'[perplexity]\ncorpus = ["hub:a/b@{"a" * 40}/c.parquet"]\n'
    assert suite(folder, text)["perplexity"].units is None
    assert suite(folder, text + "windows = 40")["perplexity"].units == 40


def test_prompts_and_every_judged_measure_of_latency_are_planned(folder):
    found = suite(folder, "[prompts]\n[latency]\npairs = 12\nttft_margin = 0.1")
    assert (found["prompts"].units, found["latency.ttft"].units) == (50, 12)
    assert found["latency.ttft"].margin == 0.1


def test_assumptions_come_from_what_was_seen_then_the_policy_then_the_profile(folder):
    text = '[perplexity]\ncorpus = ["c.jsonl"]\n[accuracy]\ntask = "mmlu"\n'
    usual = suite(folder, text)
    assert "0.05 of the items flip" in usual["accuracy"].assumed
    strict = suite(folder, f"profile = 'strict'\n{text}")
    assert "0.02 of the items flip" in strict["accuracy"].assumed
    own = suite(folder, f"{text}[power]\nflips = 0.2\nwindows = 0.5\n")
    assert "0.2 of the items" in own["accuracy"].assumed
    assert "scatter by 0.5" in own["perplexity"].assumed
    seen = {"accuracy": {"units": 700, "flips": 0.01}, "perplexity": {"units": 9, "spread": 0.001}}
    found = suite(folder, f"{text}[power]\nflips = 0.2\n", seen)
    assert (found["accuracy"].units, found["perplexity"].units) == (700, 9)
    assert "0.01 of the items" in found["accuracy"].assumed


def test_verdicts_tell_the_next_plan_what_flipped_and_scattered():
    base = {"worse_by": 0.0, "low": 0.0, "high": 0.0, "margin": 0.1}
    accuracy = Verdict(
        gate="accuracy",
        units=200,
        numbers=(("right to wrong", 3.0), ("wrong to right", 1.0)),
        **base,
    )
    perplexity = Verdict(
        gate="perplexity", units=100, numbers=(("standard error of log perplexity", 0.002),), **base
    )
    found = planning.shown([accuracy, perplexity, Verdict(gate="latency.itl", units=8, **base)])
    assert found == {
        "accuracy": {"units": 200, "flips": 0.02},
        "perplexity": {"units": 100, "spread": pytest.approx(0.02)},
    }
