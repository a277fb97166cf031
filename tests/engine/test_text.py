"""Streamed text adds up to the whole text, and stop strings never show."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.engine.embedded.text import GrowingText, StopStrings, Tokenizer
from builders.errors import ToolError
from fakes.checkpoints import DEMO

tokenizer = Tokenizer(DEMO)


def streamed(tokens):
    growing = GrowingText(tokenizer)
    return "".join([*(growing.add(token) for token in tokens), growing.rest()])


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x", "naïve café – 漢字 🙂🙂", "\ttabs  two"]
)
def test_pieces_of_a_text_add_up_to_it(text):
    assert streamed(tokenizer.encode(text)) == text


@given(st.lists(st.integers(0, 4095), max_size=40))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_tokens_add_up_to_their_text(tokens):
    assert streamed(tokens) == tokenizer.decode(tokens)


def test_half_a_character_waits_for_the_other_half():
    growing = GrowingText(tokenizer)
    pieces = [growing.add(token) for token in tokenizer.encode("🙂")]
    assert pieces[:-1] == [""] * (len(pieces) - 1)
    assert pieces[-1] == "🙂"


def test_a_character_that_never_ends_comes_out_at_the_end():
    tokens = tokenizer.encode("a🙂")[:-1]
    assert streamed(tokens) == tokenizer.decode(tokens)
    assert streamed(tokens).startswith("a\ufffd")


def cut(text, stops, size):
    filter_ = StopStrings(stops)
    passed = ""
    for at in range(0, len(text), size):
        passed += filter_.pass_on(text[at : at + size])
        if filter_.found():
            return passed
    return passed + filter_.rest()


@given(
    st.text("abc\n", max_size=30),
    st.lists(st.text("abc\n", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_a_text_ends_before_its_first_stop_string_however_it_is_cut(text, stops, size):
    passed = cut(text, stops, size)
    assert text.startswith(passed)
    assert not any(stop in passed for stop in stops)
    if not any(stop in text for stop in stops):
        assert passed == text


def test_what_cannot_become_a_stop_string_is_not_held_back():
    filter_ = StopStrings(["\n\n"])
    assert filter_.pass_on("one\n") == "one"
    assert filter_.pass_on("two") == "\ntwo"


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ToolError, match="tokenizer cannot be loaded"):
        Tokenizer(tmp_path)
