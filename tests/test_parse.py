"""Tables are strict at the edge and helpful when they refuse."""

import pytest

from builders.errors import UsageError
from builders.formats import Format
from builders.parse import Table, nearest, read_toml


def table(**keys):
    return Table(keys, place="x.toml")


def test_absent_keys_take_their_defaults():
    with table() as empty:
        assert empty.text("a", "b") == "b"
        assert empty.texts("c", ("d",)) == ("d",)
        assert empty.whole("e", 3) == 3
        assert empty.number("f", 0.5) == 0.5
        assert empty.flag("g", default=True) is True
        assert empty.choice("h", Format, Format.FP8) is Format.FP8


@pytest.mark.parametrize(
    ("read", "value", "what"),
    [
        (lambda t: t.text("k"), 3, "k must be a string, not 3"),
        (lambda t: t.texts("k"), [1], "k must be a list of strings"),
        (lambda t: t.whole("k"), True, "k must be a whole number"),
        (lambda t: t.whole("k", least=1), 0, "at least 1"),
        (lambda t: t.number("k"), "1", "k must be a number"),
        (lambda t: t.number("k"), float("nan"), "k must be a finite number"),
        (lambda t: t.number("k"), float("inf"), "k must be a finite number"),
        (lambda t: t.flag("k"), 1, "k must be true or false"),
        (lambda t: t.choice("k", Format), "fp9", "k = 'fp9' is not one of"),
        (lambda t: t.table("k"), [], "k must be a table"),
        (lambda t: t.text("other"), 1, "other is missing"),
    ],
)
def test_a_wrong_value_names_the_place_the_key_and_the_rule(read, value, what):
    with pytest.raises(UsageError, match=what) as caught:
        read(table(k=value))
    assert str(caught.value).startswith("x.toml: ")


def test_an_unknown_key_of_a_sub_table_is_named_in_full_with_its_neighbour():
    inner = table(serve={"contxt": 1}).table("serve")
    with pytest.raises(UsageError, match=r"unknown key serve\.contxt") as caught, inner:
        inner.whole("context", 0)
    assert caught.value.hint == "did you mean context?"


def test_an_error_inside_the_block_is_not_hidden_by_an_unknown_key():
    with pytest.raises(UsageError, match="is missing"), table(odd=1) as odd:
        odd.text("needed")


def test_nearest_lists_everything_when_nothing_is_near():
    assert nearest("zzz", ["fp8", "int4"]) == "known: fp8, int4"


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", None])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.toml"):
        read_toml(path)
