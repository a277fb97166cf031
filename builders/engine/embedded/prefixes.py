"""Which texts begin alike, so that what they share is computed once. Knows no model.

Few-shot tasks ask every question after the same examples: those are most of all tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Text = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Texts, by their places, that share their first ``shared`` tokens."""

    shared: int
    places: tuple[int, ...]


@dataclass(slots=True)
class _Span:
    """Neighbours in order that share ``shared`` tokens, and the best that can be made of them."""

    shared: int
    begin: int
    saved: int
    groups: list[Group]


def grouped(texts: Sequence[Text], *, worth: int) -> list[Group]:
    """Group different texts that begin alike: large groups, or long beginnings, as saves more.

    A group saves ``worth`` tokens at least, as it costs passes of its own; the rest shares nothing.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    sorted_texts = [texts[place] for place in order]
    alike = [_alike(a, b) for a, b in pairwise(sorted_texts)]
    found = list(_best(alike, order, worth))
    inside = {place for group in found for place in group.places}
    rest = tuple(place for place in range(len(texts)) if place not in inside)
    return [*found, *([Group(0, rest)] if rest else [])]


def _best(alike: Sequence[int], order: Sequence[int], worth: int) -> Iterator[Group]:
    """Choose among nested spans of neighbours: each as one group, or as the best of its parts."""
    stack: list[_Span] = []
    for place, shared in enumerate([*alike, -1]):
        begin, parts, saved = place, list[Group](), 0
        while stack and stack[-1].shared > shared:
            done = stack.pop()
            begin = done.begin
            places = tuple(order[done.begin : place + 1])
            whole = done.shared * (len(places) - 1)
            if whole >= worth and whole > done.saved:
                done.saved, done.groups = whole, [Group(done.shared, places)]
            if stack and stack[-1].shared >= shared:
                stack[-1].saved += done.saved
                stack[-1].groups += done.groups
            else:
                saved, parts = saved + done.saved, parts + done.groups
        if stack and stack[-1].shared == shared:
            stack[-1].saved += saved
            stack[-1].groups += parts
        elif shared >= 0:
            stack.append(_Span(shared, begin, saved, parts))
        else:
            yield from parts


def _alike(one: Text, other: Text) -> int:
    """Return how many first tokens two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
