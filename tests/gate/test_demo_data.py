"""The demo's texts are made from Python itself: the same bytes each time, and fit for its gates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builders.gate.scoring import accuracy, corpus, harness, tasks
from builders.parse import Table
from builders.progress import silent
from fakes.scorers import Arithmetic

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the demo's tasks beside freshly made data."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tasks").mkdir()
    task = (DEMO / "tasks/continuation.yaml").read_text()
    (folder / "tasks/continuation.yaml").write_text(task)
    make(folder / "data")
    return folder


def make(folder):
    subprocess.run(
        [sys.executable, DEMO / "make_data.py", folder], check=True, capture_output=True, cwd="/"
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_python_makes_the_same_bytes(made, tmp_path):
    make(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (made / "data" / path.name).read_bytes()


def test_there_is_enough_to_calibrate_with(made):
    texts = [line["text"] for line in lines(made / "data/calibration.jsonl")]
    assert len(texts) == len(set(texts)) == 512
    assert min(map(len, texts)) >= 200


def test_the_corpus_and_the_questions_have_no_topic_in_common(made):
    documents = corpus.read([made / "data/corpus.jsonl"])
    topics = {line["topic"] for line in lines(made / "data/choices.jsonl")}
    assert len(documents) >= 30
    assert sum(len(one.text) for one in documents) > 150_000
    assert not topics & {one.name.partition(":")[2] for one in documents}


def test_questions_give_nothing_away_by_place_or_length(made):
    items = lines(made / "data/choices.jsonl")
    assert len(items) == 400
    assert all(len(set(item["choices"])) == 4 for item in items)
    right = [item["answer"] for item in items]
    assert all(80 <= right.count(place) <= 120 for place in range(4))
    longest = [max(range(4), key=lambda at: len(item["choices"][at])) for item in items]
    assert sum(map(int.__eq__, longest, right)) < 160


def test_the_demo_task_is_asked_whole(made):
    tasks.check(made / "tasks/continuation.yaml")
    table = Table({"task": "tasks/continuation.yaml"}, place="p.toml")
    settings = accuracy.parse(table, beside=made, confidence=0.95)
    samples = harness.ask(Arithmetic(context=4096), settings, silent)
    assert len(samples) == 400
    assert {sample["choices"] for sample in samples} == {4}
