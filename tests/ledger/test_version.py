"""Versions are ordered as their makers order them, candidates before the release they lead to."""

import itertools

import pytest

from builders.errors import UsageError
from builders.ledger import Version

ASCENDING = [
    "0.9.0", "0.14.0", "0.17.0", "0.17.0.post1", "0.20.0", "1.0.0", "1.0.3.2510", "1.1.0rc2",
    "1.1.0rc2.post2", "1.1.0", "1.2.0", "1.2.1", "1.3.0rc0", "1.3.0rc9", "1.3.0rc20", "1.3.0rc29",
    "1.3.0", "1.4.0rc1", "24.10", "25.07", "26.01",
]  # fmt: skip


def test_every_pair_is_in_its_makers_order():
    for less, more in itertools.combinations(ASCENDING, 2):
        assert Version.parse(less) < Version.parse(more)
        assert Version.parse(more) > Version.parse(less)


def test_trailing_zeros_a_leading_v_and_a_build_tag_mean_nothing():
    assert Version.parse("1.2") == Version.parse("1.2.0") == Version.parse("v1.2.0+cu130")
    assert Version.parse("25.7") == Version.parse("25.07")
    assert hash(Version.parse("1.2")) == hash(Version.parse("1.2.0"))


def test_only_a_release_is_stable_and_a_version_is_printed_as_it_was_written():
    assert Version.parse("1.2.1").stable
    assert not Version.parse("1.3.0rc20").stable
    assert str(Version.parse("v1.2.0")) == "v1.2.0"


@pytest.mark.parametrize("text", ["", "newest", "1.", "1.2.x", "1.3.0-rc1", "1.2.1\n", "1.2.1 "])
def test_what_is_no_version_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="is not a version") as error:
        Version.parse(text)
    assert "1.3.0rc20" in error.value.hint
