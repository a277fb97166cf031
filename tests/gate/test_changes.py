"""What changed is listed with its prompt, and a subject alarms only beyond chance among all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from builders.gate import changes, evidence


def kept(folder, gate, samples):
    folder.mkdir()
    evidence.write(folder, gate=gate, settings={}, samples=samples)
    return folder


def item(number, *, right, choice, cluster="law"):
    return {"unit": f"t/{number}", "right": right, "choice": choice, "cluster": cluster,
            "prompt": f"Question {number}?"}  # fmt: skip


def test_lost_items_come_first_then_won_ones_then_other_answers(tmp_path):
    before = [(1, 0), (0, 1), (0, 2), (1, 0)]
    after = [(1, 0), (0, 3), (1, 0), (0, 1)]
    folders = [
        kept(
            tmp_path / name,
            "accuracy",
            [item(n, right=right, choice=choice) for n, (right, choice) in enumerate(values)],
        )
        for name, values in (("a", before), ("b", after))
    ]
    found = changes.changes("accuracy", *folders)
    assert [(one.kind, one.unit) for one in found] == [
        ("lost", "t/3"), ("won", "t/2"), ("other", "t/1"),
    ]  # fmt: skip
    assert (found[0].before, found[0].after) == ("choice 1", "choice 2")
    assert found[0].prompt == "Question 3?"


def test_prompts_show_what_was_said(tmp_path):
    folders = [
        kept(
            tmp_path / name,
            "prompts",
            [
                {
                    "unit": "p",
                    "prompt": "Say a",
                    "group": "",
                    "answers": [{"text": text, "score": s}],
                }
            ],
        )
        for name, text, s in (("a", "a", 1.0), ("b", "b", 0.0))
    ]
    (one,) = changes.changes("prompts", *folders)
    assert (one.kind, one.before, one.after) == ("lost", "a", "b")
    assert changes.subjects("prompts", *folders) == ()


def test_one_subject_that_fell_apart_alarms_and_its_neighbours_do_not(tmp_path):
    def samples(fallen):
        for number in range(120):
            cluster = ("law", "art", "math")[number % 3]
            wrong = fallen and cluster == "law" and number < 60
            yield item(number, right=int(not wrong), choice=int(wrong), cluster=cluster)

    folders = [
        kept(tmp_path / name, "accuracy", samples(fallen))
        for name, fallen in (("a", False), ("b", True))
    ]
    found = changes.subjects("accuracy", *folders)
    assert [(one.name, one.alarm) for one in found] == [
        ("law", True), ("art", False), ("math", False),
    ]  # fmt: skip
    assert (found[0].lost, found[0].won, found[0].items) == (20, 0, 40)
    assert (found[0].before, found[0].after) == (1.0, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_chances_are_corrected_as_holm_does(chances):
    expected = multipletests(chances, method="holm")[1]
    assert changes.holm(chances) == pytest.approx(list(expected), abs=1e-12)
