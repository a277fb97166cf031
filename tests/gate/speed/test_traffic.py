"""Recorded traffic is read strictly; drawn traffic is equal for both sides of a pair."""

import json
from dataclasses import replace

import pytest

from builders.errors import UsageError
from builders.gate.speed import traffic
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.traffic import Load, of_pair, trace

LOAD = Load(pairs=4, requests=12, warm_up=2, concurrency=3)


def written(tmp_path, *lines):
    path = tmp_path / "record.jsonl"
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return path


def test_a_record_starts_at_zero_in_the_order_of_time(tmp_path):
    path = written(
        tmp_path,
        {"at_s": 100.5, "prompt": "b", "output_tokens": 2},
        {"at_s": 100.0, "prompt_words": 3, "output_tokens": 4},
        {"at_s": 102.0, "prompt": "c", "output_tokens": 1},
    )
    found = traffic.read(path)
    assert [one.at_s for one in found] == [0.0, 0.5, 2.0]
    assert [one.output_tokens for one in found] == [4, 2, 1]
    assert [one.at_s for one in traffic.read(path, speed=2.0)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", ":2: "),
        ({"prompt": "a", "output_tokens": 1}, ":2: at_s is missing"),
        ({"at_s": -1, "prompt": "a", "output_tokens": 1}, ":2: at_s must be a finite number"),
        ({"at_s": 1, "prompt": "a"}, ":2: output_tokens is missing"),
        ({"at_s": 1, "prompt": "a", "output_tokens": 0}, ":2: output_tokens must be a whole"),
        ({"at_s": 1, "output_tokens": 1}, ":2: needs either prompt or prompt_words"),
        (
            {"at_s": 1, "prompt": "a", "prompt_words": 1, "output_tokens": 1},
            ":2: needs either prompt or prompt_words",
        ),
        ({"at_s": 1, "prompt": "a", "output_tokens": 1, "id": 3}, ":2: unknown key id"),
        ("", "1 requests"),
    ],
)
def test_a_faulty_line_of_a_record_is_named(tmp_path, line, complaint):
    good = {"at_s": 0, "prompt": "a", "output_tokens": 1}
    with pytest.raises(UsageError, match=complaint):
        traffic.read(written(tmp_path, good, line))


def test_answers_are_as_long_as_their_distribution_says():
    load = replace(LOAD, tokens=Lengths.uniform(3, 5))
    assert {shot.tokens for shot in trace(load, 1, count=100, part="load")} == {3, 4, 5}


def test_a_pair_measures_the_load_or_the_record():
    assert len(of_pair(LOAD, 1)) == 12
    one = traffic.Recorded(at_s=0.0, output_tokens=1, prompt="a")
    assert [shot.prompt for shot in of_pair(replace(LOAD, recorded=(one, one)), 1)] == ["a", "a"]
