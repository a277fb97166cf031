"""Texts that begin alike are grouped so that no token is lost and many are computed once."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from builders.engine.embedded.prefixes import Group, grouped

TEXTS = st.lists(
    st.lists(st.sampled_from([1, 1, 1, 2]), min_size=1, max_size=9).map(tuple),
    min_size=1, max_size=10, unique=True,
)  # fmt: skip


def saved(groups):
    return sum(group.shared * (len(group.places) - 1) for group in groups)


def most(texts, worth):
    """The most that any cut of the sorted texts into neighbours can save."""
    ordered = sorted(texts)

    def alike(span):
        whole = zip(*span, strict=False)
        return next(
            (n for n, tokens in enumerate(whole) if len(set(tokens)) > 1), min(map(len, span))
        )

    @cache
    def best(begin, end):
        if end - begin < 2:
            return 0
        whole = alike(ordered[begin:end]) * (end - begin - 1)
        parts = (best(begin, cut) + best(cut, end) for cut in range(begin + 1, end))
        return max(whole if whole >= worth else 0, *parts)

    return best(0, len(ordered))


@given(TEXTS, st.integers(1, 8))
def test_every_text_is_in_one_group_and_shares_what_the_group_says(texts, worth):
    groups = grouped(texts, worth=worth)
    assert sorted(place for group in groups for place in group.places) == list(range(len(texts)))
    for group in groups:
        assert len({texts[place][: group.shared] for place in group.places}) == 1
        assert group.shared == 0 or group.shared * (len(group.places) - 1) >= worth


@given(TEXTS, st.integers(1, 8))
def test_no_cut_saves_more_than_is_claimed_possible_and_most_of_it_is_saved(texts, worth):
    found = saved(grouped(texts, worth=worth))
    assert 0.5 * most(texts, worth) <= found <= most(texts, worth)


def test_questions_after_the_same_examples_are_one_group_for_each_subject():
    algebra, law = tuple(range(100)), tuple(range(50, 150))
    texts = [(*shots, 900 + n, 1) for n in range(6) for shots in (algebra, law)]
    groups = grouped(texts, worth=100)
    assert [(group.shared, len(group.places)) for group in groups] == [(100, 6), (100, 6)]


def test_what_does_not_pay_is_left_apart():
    assert grouped([(1, 2, 3), (1, 2, 4)], worth=3) == [Group(0, (0, 1))]
    assert grouped([], worth=1) == []
