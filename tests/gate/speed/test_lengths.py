"""Lengths follow their distribution, stay within their limits, and refuse what is none."""

import json
import random
from statistics import median

import pytest

from builders.errors import UsageError
from builders.gate.speed.lengths import Lengths
from builders.parse import Table


def parsed(tmp_path, floor=1, **keys):
    table = Table(keys, place="policy.toml", prefix="latency.prompt_words.")
    return Lengths.parse(table, beside=tmp_path, least=floor)


def drawn(lengths, count=4000):
    dice = random.Random(1)
    return [lengths.draw(dice) for _ in range(count)]


def test_one_length_and_a_range(tmp_path):
    assert set(drawn(parsed(tmp_path, shape="fixed", length=7))) == {7}
    assert set(drawn(parsed(tmp_path, shape="uniform", least=3, most=5))) == {3, 4, 5}


def test_a_lognormal_has_its_median_and_its_limits(tmp_path):
    keys = {"shape": "lognormal", "median": 100, "sigma": 0.7, "most": 300}
    found = drawn(parsed(tmp_path, **keys))
    assert median(found) == pytest.approx(100, rel=0.05)
    assert max(found) == 300
    assert min(found) < 20
    assert min(drawn(parsed(tmp_path, **keys, least=60))) == 60


def test_lengths_of_a_file_are_drawn_as_often_as_they_stand_there(tmp_path):
    (tmp_path / "lengths.txt").write_text("5\n9\n\n9\n9\n")
    found = drawn(parsed(tmp_path, shape="file", file="lengths.txt"))
    assert found.count(9) / len(found) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"shape": "lognormal", "median": 100, "sigma": 0.7}, "most is missing"),
        ({"shape": "uniform", "least": 5, "most": 3}, "most is below least"),
        ({"shape": "fixed"}, "length is missing"),
        ({"shape": "fixed", "length": 3, "most": 4}, r"unknown key latency\.prompt_words\.most"),
        ({"shape": "file", "file": "nowhere.txt"}, "no such file"),
        ({"shape": "file", "file": "bad.txt"}, "bad.txt:2: 'x' is no length of at least 1"),
        ({"shape": "file", "file": "empty.txt"}, "no lengths"),
    ],
)
def test_what_is_no_distribution_is_refused(tmp_path, keys, complaint):
    (tmp_path / "bad.txt").write_text("1\nx\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=complaint):
        parsed(tmp_path, **keys)


def test_a_length_below_the_least_is_refused(tmp_path):
    (tmp_path / "lengths.txt").write_text("2\n1\n")
    with pytest.raises(UsageError, match="'1' is no length of at least 2"):
        parsed(tmp_path, floor=2, shape="file", file="lengths.txt")


def test_what_changes_a_measurement_can_be_written(tmp_path):
    json.dumps(parsed(tmp_path, shape="fixed", length=7).as_json())
