"""Find evaluation text in calibration text: a model must not be tuned on what judges it.

Words in a row are compared, as is usual since GPT-3's report: thirteen of them are no chance
(Brown et al., arXiv 2005.14165, appendix C). Evaluation texts shorter than that count whole.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GRAM: Final = 13
_LEAST: Final = 8  # words of an evaluation text that is looked for as a whole
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How many runs of words of the evaluation stand in the calibration too.

    ``texts`` counts the calibration texts that hold any, ``first`` is one of them with the words.
    """

    grams: int
    shared: int
    texts: int
    first: str
    words: str

    @property
    def share(self) -> float:
        """The share of the evaluation's runs that were found."""
        return self.shared / self.grams if self.grams else 0.0

    def __str__(self) -> str:
        return f"{self.shared:,} of {self.grams:,} runs of {GRAM} words ({self.share:.2%})"


def overlap(calibration: Mapping[str, str], evaluation: Iterable[str]) -> Leak:
    """Count the evaluation's runs of words that stand in calibration texts, given by their place.

    Letters' case, punctuation and white space do not count.
    """
    wanted = _wanted(evaluation)
    shared: set[int] = set()
    texts, first, words = 0, "", ""
    for place, text in calibration.items():
        cut = _words(text)
        hits = list(_hits(cut, wanted))
        shared.update(gram for gram, _, _ in hits)
        texts += bool(hits)
        if hits and not first:
            _, at, length = hits[0]
            first, words = place, " ".join(cut[at : at + length])
    return Leak(
        grams=sum(map(len, wanted.values())),
        shared=len(shared),
        texts=texts,
        first=first,
        words=words,
    )


def _hits(
    cut: Sequence[str], wanted: Mapping[int, Container[int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield each run that is wanted, with where it begins and its length."""
    for length, grams in wanted.items():
        for at, gram in enumerate(_grams(cut, length)):
            if gram in grams:
                yield gram, at, length


def _wanted(evaluation: Iterable[str]) -> dict[int, set[int]]:
    wanted: dict[int, set[int]] = {}
    for text in evaluation:
        cut = _words(text)
        length = min(GRAM, len(cut))
        if length >= _LEAST:
            wanted.setdefault(length, set()).update(_grams(cut, length))
    return wanted


def _words(text: str) -> Sequence[str]:
    return _WORD.findall(text.casefold())


def _grams(words: Sequence[str], length: int) -> Iterator[int]:
    return (hash(tuple(words[at : at + length])) for at in range(len(words) - length + 1))
