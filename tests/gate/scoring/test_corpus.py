"""A corpus is read as documents, and every token of it is scored once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.errors import UsageError
from builders.gate.scoring import corpus

WIKI = """ \n = Robert <unk> = \n \n An actor . \n = = Career = = \n Plays .
 = Du Fu = \n \n A poet . \n"""


def read(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return corpus.read([path])


def test_json_lines_are_documents_named_by_id_or_line(tmp_path):
    found = read(tmp_path, "c.jsonl", '{"id": "x", "text": "one"}\n{"text": "two"}\n')
    assert [(one.name, one.text) for one in found] == [("c.jsonl:x", "one"), ("c.jsonl:2", "two")]


def test_wikitexts_titles_begin_documents_and_its_sections_do_not(tmp_path):
    first, second = read(tmp_path, "wiki.test.tokens", WIKI)
    assert "Robert" in first.text
    assert "= = Career = =" in first.text
    assert second.text.strip().startswith("= Du Fu =")


def test_form_feeds_part_plain_text_and_without_them_it_is_one_document(tmp_path):
    assert [one.text for one in read(tmp_path, "a.txt", "one\ftwo\f\n")] == ["one", "two"]
    assert [one.text for one in read(tmp_path, "b.txt", "x = 1\ny = 2\n")] == ["x = 1\ny = 2\n"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no text in it"),
        ('{"id": "a"}\n', 'c.jsonl:1: "text" must be'),
        ('{"text": "one"}\n{"text": " "}\n', 'c.jsonl:2: "text" must be'),
        ('{"text": 7}\n', 'c.jsonl:1: "text" must be'),
        ('{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n', "two documents are called 1"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path, text, error):
    with pytest.raises(UsageError, match=error):
        read(tmp_path, "c.jsonl", text)


@given(
    count=st.integers(0, 300),
    room=st.integers(2, 40),
    overlap=st.integers(0, 38),
    given=st.integers(0, 1),
)
def test_each_token_counts_once_except_those_with_nothing_before_them(count, room, overlap, given):
    stride = max(1, room - overlap)
    spans = list(corpus.cut(count, room=room, stride=stride, given=given))
    scored = [place for one in spans for place in range(one.end - one.scored, one.end)]
    first = 0 if given else 1
    assert all(one.end - one.begin <= room for one in spans)
    assert len(scored) == len(set(scored))
    if stride < room or given:
        assert sorted(scored) == list(range(first, count))
    else:
        assert sorted(scored) == [place for place in range(count) if place % room]


def test_rows_are_chosen_evenly():
    assert list(corpus.spread(10, 4)) == [0, 2, 5, 7]
    assert list(corpus.spread(3, 0)) == list(corpus.spread(3, 9)) == [0, 1, 2]
    assert list(corpus.spread(0, 5)) == []
