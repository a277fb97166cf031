"""A sample stands for its file: all lengths, unlike texts, equal picks for equal files."""

import json
import random

import pytest

from builders.errors import UsageError
from builders.quantize.sample import sample


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def picked(file, count):
    return [json.loads(line)["text"] for line in sample(file, count=count).lines]


def test_texts_unlike_each_other_are_picked_before_their_likes(tmp_path):
    """Forty variations of one question, and four that nobody else asked."""
    like = [f"What is the weather in town number {n} going to be like tomorrow?" for n in range(40)]
    others = [
        "Write a function that reverses a list without copying its items.",
        "Translate this sentence into French: the cat sat on a mat.",
        "Who was first to walk on the Moon and in which year?",
        "Sum up this contract in three sentences that a layman understands.",
    ]
    file = write(tmp_path / "t.jsonl", [*like, *others])
    found = picked(file, 6)
    assert len(set(found) & set(others)) == 4


def test_every_length_has_its_share(tmp_path):
    rng = random.Random(1)
    words = [f"word{n}" for n in range(500)]
    short = [" ".join(rng.choices(words, k=10)) for _ in range(60)]
    long = [" ".join(rng.choices(words, k=200)) for _ in range(20)]
    found = picked(write(tmp_path / "t.jsonl", [*short, *long]), 8)
    assert sorted(len(text.split()) for text in found) == [10] * 6 + [200] * 2


def test_the_order_of_lines_does_not_change_the_picks_and_lines_keep_their_order(tmp_path):
    texts = [f"a text about subject {n} and number {n * n}" for n in range(200)]
    one = picked(write(tmp_path / "one.jsonl", texts), 15)
    turned = picked(write(tmp_path / "two.jsonl", texts[::-1]), 15)
    assert sorted(one) == sorted(turned)
    assert one == sorted(one, key=texts.index)


def test_a_text_that_stands_twice_is_picked_once_and_counted(tmp_path):
    file = write(tmp_path / "t.jsonl", ["same words here"] * 5 + ["other words there"])
    found = sample(file, count=4)
    assert (len(found.lines), found.texts, found.distinct) == (2, 6, 2)


def test_conversations_are_sampled_too(tmp_path):
    file = tmp_path / "t.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    file.write_text(line + "\n")
    assert sample(file, count=3).lines == (line.encode(),)


def test_bad_lines_no_lines_and_no_count_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"t\.jsonl:1: text is empty"):
        sample(write(tmp_path / "t.jsonl", [""]), count=1)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UsageError, match="no texts in it"):
        sample(tmp_path / "empty.jsonl", count=1)
    with pytest.raises(UsageError, match="at least 1 text"):
        sample(tmp_path / "empty.jsonl", count=0)
