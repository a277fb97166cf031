"""The page shows what changed, in which subject and at which place, and never more than it has."""

from dataclasses import replace

import pytest

from builders.report import Change, Changes, Divergence, Subject, as_html
from builders.report.drift import drift

NAN = float("nan")


def changed(text, count=2, lost=2):
    shown = tuple(
        Change(gate="accuracy", unit=f"{text}/{n}", group=text, kind="lost",
               prompt=f"{text}?", before="choice 1", after=text)
        for n in range(count)
    )  # fmt: skip
    return Changes(gate="accuracy", lost=lost, won=0, other=0, shown=shown)


def subject(name, *, alarm=False):
    return Subject(gate="accuracy", name=name, items=100, before=0.7, after=0.6, lost=12, won=2,
                   p=0.01, alarm=alarm)  # fmt: skip


def test_changed_items_are_listed_with_their_prompts(report, outline):
    read = outline(as_html(replace(report, changes=(changed("law", lost=7),))))
    assert "accuracy: 7 lost, 0 won" in read.text
    assert read.tags.count("details") == 2
    assert "law?" in read.text
    assert "The first 2 are shown" in read.text


def test_nothing_changed_needs_no_section(report, outline):
    none = Changes(gate="accuracy", lost=0, won=0, other=0, shown=())
    assert "What changed" not in outline(as_html(replace(report, changes=(none,)))).text


def test_an_alarming_subject_stands_out(report, outline):
    read = outline(as_html(replace(report, subjects=(subject("law", alarm=True), subject("art")))))
    assert "law alarm" in read.text
    assert "art alarm" not in read.text
    assert "70 %" in read.text


def test_divergence_is_drawn_against_the_floor_and_said_in_words(report, outline):
    found = Divergence(candidate=((0, 0.01), (16, 0.03)), floor=((0, 0.001), (16, 0.001)))
    read = outline(as_html(replace(report, divergence=found)))
    assert (
        "mean of candidate against baseline 0.02 nats, baseline against itself 0.001 nats"
        in read.text
    )


@pytest.mark.parametrize("points", [(), ((0, NAN),)])
def test_divergence_that_was_not_kept_is_not_drawn(points):
    assert drift(Divergence(candidate=points), square=1000) is None
    assert drift(None, square=1000) is None


def test_a_divergence_of_nothing_is_a_flat_line():
    found = drift(Divergence(candidate=((0, 0.0), (8, 0.0))), square=1000)
    assert [line.side for line in found.lines] == ["candidate"]


def test_text_from_outside_stays_text(report, outline, hostile):
    html = as_html(
        replace(report, changes=(changed(hostile),), subjects=(subject(hostile, alarm=True),))
    )
    read = outline(html)
    assert {"script", "img"}.isdisjoint(read.tags)
    assert hostile in read.text
