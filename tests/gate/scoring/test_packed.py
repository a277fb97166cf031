"""Packed numbers come back as they were, and what is no packed number is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.gate.scoring import packed


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_a_float32_comes_back_to_the_bit(values):
    assert packed.unpacked_floats(packed.floats(values)) == values


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_whole_numbers_come_back(values):
    assert packed.unpacked_wholes(packed.wholes(values)) == values


@pytest.mark.parametrize("text", ["###", "AAA", "AAAAAAA="])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - base64 and array have their own words
        packed.unpacked_floats(text)


def test_four_numbers_take_a_third_of_their_digits():
    assert len(packed.floats([-0.123456789] * 100)) < 100 * len("-0.123456789, ") / 2
