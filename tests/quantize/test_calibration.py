"""Calibration texts are validated line by line, and chosen by seed whatever their order."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import recipe as recipes
from builders.errors import ToolError, UsageError
from builders.formats import Format
from builders.quantize.calibration import Corpus, bucket, is_needed
from builders.recipe import Calibration, HubTexts


def write(path, *lines):
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def read(*files, **settings):
    return Corpus.read(Calibration(files=files, **settings))


def texts(corpus):
    return [document.text for document in corpus.chosen]


def test_texts_and_messages_are_read_with_the_place_they_come_from(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    file = write(tmp_path / "calib.jsonl", {"text": "one", "source": "a book"}, "", chat)
    by_place = {document.place: document for document in read(file).chosen}
    assert by_place[f"{file}:1"].text == "one"
    assert by_place[f"{file}:3"].messages == (("user", "Hi"), ("assistant", "Ho"))
    assert read(file).has_messages


def test_the_choice_depends_on_the_seed_but_not_on_the_order_of_lines_or_files(tmp_path):
    lines = [{"text": f"text {number}"} for number in range(50)]
    one = write(tmp_path / "one.jsonl", *lines)
    turned = write(tmp_path / "turned.jsonl", *reversed(lines))
    left, right = write(tmp_path / "l.jsonl", *lines[30:]), write(tmp_path / "r.jsonl", *lines[:30])
    chosen = read(one, samples=10)
    assert chosen.documents == 10
    assert texts(chosen) == texts(read(turned, samples=10)) == texts(read(left, right, samples=10))
    assert texts(chosen) != texts(read(one, samples=10, seed=1))


def test_a_text_that_stands_twice_is_taken_once(tmp_path):
    file = write(tmp_path / "calib.jsonl", {"text": "same"}, {"text": "same"}, {"text": "other"})
    assert sorted(texts(read(file))) == ["other", "same"]


def test_fewer_documents_than_asked_are_all_taken_and_counted(tmp_path):
    assert read(write(tmp_path / "calib.jsonl", {"text": "only one"}), samples=512).documents == 1


def test_the_digest_follows_content_and_settings_but_not_the_path(tmp_path):
    lines = [{"text": f"text {number}"} for number in range(9)]
    one = read(write(tmp_path / "one.jsonl", *lines), samples=4)
    assert one.digest == read(write(tmp_path / "two.jsonl", *lines), samples=4).digest
    others = [
        read(tmp_path / "one.jsonl", samples=5),
        read(tmp_path / "one.jsonl", samples=4, seed=1),
        read(tmp_path / "one.jsonl", samples=4, length=64),
        read(write(tmp_path / "other.jsonl", *lines[:-1], {"text": "new"}), samples=9),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "unfinished', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["text"]', "holds no JSON object"),
        ('{"txt": "word"}', "needs the key text or messages, has txt"),
        ("{}", "needs the key text or messages, has none"),
        ('{"text": ""}', "text is empty"),
        ('{"text": " \\n"}', "text is empty"),
        ('{"text": 7}', "text must be a string, not int"),
        ('{"text": "a", "messages": []}', "both text and messages"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": ["hi"]}', "must have role and content"),
        ('{"messages": [{"role": "user"}]}', "content must be a string, not NoneType"),
        ('{"messages": [{"role": "user", "content": ""}]}', "content is empty"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, complaint):
    good = [{"text": f"text {number}"} for number in range(16)]
    file = write(tmp_path / "calib.jsonl", *good, line)
    with pytest.raises(UsageError, match=complaint) as caught:
        read(file, samples=1)
    assert str(caught.value).startswith(f"{file}:17: ")


def test_a_mistyped_key_gets_a_suggestion(tmp_path):
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path / "calib.jsonl", {"txt": "word"}))
    assert caught.value.hint == "did you mean text?"


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "calib.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(UsageError, match=r"calib\.jsonl:2: not valid JSON"):
        read(tmp_path / "calib.jsonl")


def test_a_missing_file_a_directory_and_an_empty_file_are_errors(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.jsonl: no such calibration file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UsageError, match="no calibration documents"):
        read(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UsageError, match="names none"):
        read()


def test_calibration_is_needed_for_static_scales_only():
    rounded = recipes.shipped()["int4_rtn"]
    assert is_needed(recipes.shipped()["fp8"])
    assert not is_needed(rounded)
    assert is_needed(replace(rounded, kv_cache=Format.FP8))


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=70), max_size=30),
    st.integers(1, 200),
)
def test_batches_hold_rows_of_one_length_and_lose_fewer_than_eight_tokens_a_row(rows, tokens):
    batches = bucket(rows, tokens=tokens)
    kept = sorted(tuple(row) for batch in batches for row in batch)
    cut = (row if len(row) < 8 else row[: len(row) // 8 * 8] for row in rows if row)
    assert kept == sorted(tuple(row) for row in cut)
    assert all(len({len(row) for row in batch}) == 1 for batch in batches)
    assert all(len(batch) == 1 or len(batch) * len(batch[0]) <= tokens for batch in batches)
    assert [len(batch[0]) for batch in batches] == sorted(
        (len(batch[0]) for batch in batches), reverse=True
    )


def numbered(tmp_path, name, count):
    return write(tmp_path / f"{name}.jsonl", *({"text": f"{name} {n}"} for n in range(count)))


def shares(corpus):
    return {name: sum(name in text for text in texts(corpus)) for name in ("code", "chat")}


def test_each_file_gives_its_share_of_the_samples(tmp_path):
    code, chat = numbered(tmp_path, "code", 90), numbered(tmp_path, "chat", 90)
    assert shares(read(code, chat, samples=40, weights=(3, 1))) == {"code": 30, "chat": 10}
    assert shares(read(code, chat, samples=7, weights=(1, 1))) == {"code": 4, "chat": 3}
    assert shares(read(code, chat, samples=40, weights=(1, 0))) == {"code": 40, "chat": 0}


def test_what_a_small_file_lacks_comes_from_the_others(tmp_path):
    code, chat = numbered(tmp_path, "code", 5), numbered(tmp_path, "chat", 90)
    found = read(code, chat, samples=40, weights=(3, 1))
    assert shares(found) == {"code": 5, "chat": 35}
    assert read(code, chat, samples=500, weights=(3, 1)).documents == 95


def test_a_text_in_two_files_counts_for_the_first(tmp_path):
    code, same = numbered(tmp_path, "code", 10), write(tmp_path / "s.jsonl", {"text": "code 3"})
    assert read(code, same, samples=20, weights=(1, 1)).documents == 10


def test_weighted_choices_depend_on_the_seed_but_not_on_the_order_of_lines(tmp_path):
    code, chat = numbered(tmp_path, "code", 50), numbered(tmp_path, "chat", 50)
    one = read(code, chat, samples=10, weights=(1, 4))
    lines = code.read_text().splitlines()[::-1]
    code.write_text("".join(line + "\n" for line in lines))
    assert texts(one) == texts(read(code, chat, samples=10, weights=(1, 4)))
    assert texts(one) != texts(read(code, chat, samples=10, weights=(1, 4), seed=1))


def test_a_split_of_the_hub_is_streamed_once_and_kept(tmp_path, monkeypatch):
    """A folder of the data set's name stands in for the hub: datasets reads it the same way."""
    pytest.importorskip("datasets")
    folder = tmp_path / "org" / "texts"
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", *({"text": f"row {n}", "id": n} for n in range(30)))
    monkeypatch.chdir(tmp_path)
    source = HubTexts(hub_id="org/texts", revision="a" * 40)
    first = read(source, samples=5)
    assert first.documents == 5
    (folder / "train.jsonl").unlink()
    assert texts(read(source, samples=5)) == texts(first)


def test_what_the_hub_does_not_give_is_named_with_the_next_step():
    pytest.importorskip("datasets")
    with pytest.raises(ToolError, match="org/none@bbbbbbbb/train could not be read") as caught:
        read(HubTexts(hub_id="org/none", revision="b" * 40))
    assert "local JSON-lines file" in caught.value.hint
    with pytest.raises(ToolError, match=r"org/none@bbbbbbbb/a\.jsonl could not be fetched"):
        read(HubTexts(hub_id="org/none", revision="b" * 40, file="a.jsonl"))


def test_a_column_that_is_not_there_is_named(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    folder = tmp_path / "org" / "odd"
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", {"question": "why?"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="has no column 'text or messages'") as caught:
        read(HubTexts(hub_id="org/odd", revision="c" * 40))
    assert "question" in caught.value.hint
    named = HubTexts(hub_id="org/odd", revision="c" * 40, column="question")
    assert texts(read(named)) == ["why?"]
