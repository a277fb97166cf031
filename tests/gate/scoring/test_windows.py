"""The rows of the quoted forms are those of the programs that made them known."""

import json

import pytest

from builders.errors import ToolError, UsageError
from builders.gate.scoring import corpus, perplexity, windows
from builders.parse import Table
from fakes.scorers import Arithmetic

WIKI = (
    " \n = Robert <unk> = \n \n An actor . \n = = Career = = \n Plays .\n"
    " = Du Fu = \n \n A poet .\n"
)
# What the data set on the hub makes of that file: a row a line, blank ones empty.
ROWS = ["", " = Robert <unk> = \n", "", " An actor . \n", " = = Career = = \n", " Plays .\n",
        " = Du Fu = \n", "", " A poet .\n"]  # fmt: skip


def settings(tmp_path, name="wiki.test.raw", **values):
    data = {"corpus": [name], "window": 16, **values}
    return perplexity.parse(Table(data, place="p"), beside=tmp_path, confidence=0.95)


@pytest.fixture
def wiki(tmp_path):
    (tmp_path / "wiki.test.raw").write_text(WIKI)
    return tmp_path


def cut(wiki, **values):
    return list(windows.rows(Arithmetic(), settings(wiki, **values)))


def test_gptqs_form_joins_every_line_and_cuts_full_windows_end_to_end(wiki):
    tokens = list("\n\n".join(ROWS).encode())
    count = len(tokens) // 16
    found = cut(wiki, documents="gptq")
    assert [list(row.tokens) for row in found] == [
        tokens[i * 16 : i * 16 + 16] for i in range(count)
    ]
    assert {row.scored for row in found} == {15}


def test_the_strided_form_leaves_blank_lines_out_and_scores_each_token_once(wiki):
    tokens = list("\n\n".join(row for row in ROWS if row.strip()).encode())
    found = cut(wiki, documents="strided", stride=4)
    ends, begin, before = [], 0, 0
    while True:  # as the usual loop does it
        end = min(begin + 16, len(tokens))
        ends.append((tokens[begin:end], end - before))
        before, begin = end, begin + 4
        if end == len(tokens):
            break
    assert [list(row.tokens) for row in found] == [row for row, _ in ends]
    assert [row.scored for row in found] == [15, *(scored for _, scored in ends[1:])]
    assert sum(row.scored for row in found) == len(tokens) - 1


def test_windows_know_the_article_in_which_they_begin(wiki):
    found = cut(wiki, documents="gptq")
    assert [row.document.rpartition(":")[2] for row in found] == ["0", "1", "1", "1", "1", "2"]
    assert len({row.unit for row in found}) == len(found)


def test_a_parquet_file_reads_as_the_raw_file_does(wiki):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ROWS}), wiki / "test.parquet")
    for form in ("gptq", "strided"):
        raw = [row.tokens for row in cut(wiki, documents=form, stride=8 if form != "gptq" else 0)]
        chosen = settings(wiki, "test.parquet", documents=form, stride=8 if form != "gptq" else 0)
        assert [row.tokens for row in windows.rows(Arithmetic(), chosen)] == raw
    texts = [one.text.strip() for one in corpus.read([wiki / "test.parquet"])]
    assert [text.split("\n")[0].strip() for text in texts] == ["= Robert <unk> =", "= Du Fu ="]


def test_a_parquet_file_without_texts_is_refused(wiki):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"words": ["a"]}), wiki / "test.parquet")
    with pytest.raises(UsageError, match=r"test\.parquet: ") as error:
        corpus.read([wiki / "test.parquet"])
    assert "text" in error.value.hint


def test_documents_of_a_jsonl_file_are_joined_as_lines_are(tmp_path):
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in "abc"))
    (row,) = windows.rows(Arithmetic(), settings(tmp_path, "c.jsonl", documents="gptq", window=7))
    assert bytes(row.tokens) == b"a\n\nb\n\nc"


def test_a_corpus_shorter_than_a_window_is_refused_where_only_full_ones_count(wiki):
    with pytest.raises(UsageError, match="shorter than one window of 4096"):
        cut(wiki, documents="gptq", window=4096)


@pytest.mark.parametrize("change", [{"stride": 8}, {"prefix": True}])
def test_the_quoted_form_is_not_bent(tmp_path, change):
    with pytest.raises(UsageError, match="form gptq has windows end to end"):
        settings(tmp_path, documents="gptq", **change)


def test_the_strided_form_has_the_usual_stride(tmp_path):
    assert settings(tmp_path, documents="strided", window=2048).stride == 512


REVISION = "a" * 40


def test_a_pinned_file_of_the_hub_is_keyed_by_its_commit_and_fetched_when_measured(tmp_path):
    name = f"hub:org/text@{REVISION}/raw/test.parquet"
    chosen = settings(tmp_path, name, documents="gptq")
    perplexity.check(chosen)
    assert perplexity.inputs(chosen)["corpus"] == [["org/text", REVISION, "raw/test.parquet"]]
    with pytest.raises(ToolError, match="could not be fetched"):
        list(windows.rows(Arithmetic(), chosen))


@pytest.mark.parametrize("name", ["hub:org/text@main/a.parquet", "hub:org/text", "hub:"])
def test_a_file_of_the_hub_that_may_change_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="names no pinned file") as error:
        settings(tmp_path, name)
    assert "40 hex" in error.value.hint
