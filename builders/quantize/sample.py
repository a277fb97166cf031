"""Pick a few texts that stand for many: of every length, and unlike each other.

Texts are drawn by length first, so that short ones and long ones have their share; within a length
each next one is the text least like those already taken. Nothing is random: equal files give equal
picks, whatever the order of their lines.
"""

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.bundle import canonical
from builders.errors import UsageError
from builders.quantize.calibration import Document, documents

_KEPT: Final = 20_000  # texts that are compared; of more, those with the smallest hashes
_BITS: Final = 4096  # of a sketch
_GRAMS: Final = 256  # runs of three words that a sketch keeps, those with the smallest hashes
_WORD: Final = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The lines that were picked, in the order of their file, and how many there were."""

    lines: tuple[bytes, ...]
    texts: int
    distinct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    rank: bytes
    number: int
    length: int
    sketch: int


def sample(file: Path, *, count: int) -> Sample:
    """Pick ``count`` lines of a JSON-lines file of texts or conversations."""
    if count < 1:
        raise UsageError(f"--count {count}: at least 1 text must be picked")
    ranked: dict[bytes, int] = {}
    texts = 0
    for document in documents(file):
        texts += 1
        rank = hashlib.sha256(canonical(document.content)).digest()
        ranked.setdefault(rank, int(document.place.rpartition(":")[2]))
    if not ranked:
        raise UsageError(f"{file}: no texts in it", hint='one {"text": …} a line')
    kept = dict(heapq.nsmallest(_KEPT, ranked.items()))
    picked = {one.number for one in _pick(list(_candidates(file, kept)), count)}
    return Sample(lines=tuple(_lines(file, picked)), texts=texts, distinct=len(ranked))


def _candidates(file: Path, kept: dict[bytes, int]) -> Iterator[_Candidate]:
    ranks = {number: rank for rank, number in kept.items()}
    for document in documents(file):
        number = int(document.place.rpartition(":")[2])
        if number in ranks:
            words = _words(document)
            yield _Candidate(
                rank=ranks[number], number=number, length=len(words), sketch=_sketch(words)
            )


def _words(document: Document) -> list[str]:
    text = document.text or "\n".join(content for _, content in document.messages)
    return _WORD.findall(text.casefold())


def _sketch(words: Sequence[str]) -> int:
    """Return a set of bits: two texts share about as many as they share runs of three words."""
    runs = {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
    hashes = (hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs)
    bits = 0
    for found in heapq.nsmallest(_GRAMS, hashes):
        bits |= 1 << int.from_bytes(found[4:]) % _BITS
    return bits


def _pick(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Give every stratum of lengths its share, largest remainders first, and pick within it."""
    strata: dict[int, list[_Candidate]] = {}
    for one in candidates:
        strata.setdefault(one.length.bit_length(), []).append(one)
    wanted = min(count, len(candidates))
    shares = {key: wanted * len(some) / len(candidates) for key, some in strata.items()}
    given = {key: int(share) for key, share in shares.items()}
    by_rest = sorted(shares, key=lambda key: (given[key] - shares[key], key))
    for key in by_rest[: wanted - sum(given.values())]:
        given[key] += 1
    return [one for key in sorted(strata) for one in _unlike(strata[key], given[key])]


def _unlike(candidates: Iterable[_Candidate], count: int) -> Iterator[_Candidate]:
    """Yield texts, each the one whose nearest neighbour among those before it is farthest."""
    left = sorted(candidates, key=lambda one: one.rank)
    nearest = [1.0] * len(left)
    for _ in range(count):
        best = max(range(len(left)), key=lambda at: (nearest[at], left[at].rank))
        yield left[best]
        taken = left[best].sketch
        nearest = [
            min(n, _distance(one.sketch, taken)) for n, one in zip(nearest, left, strict=True)
        ]
        nearest[best] = -1.0


def _distance(one: int, other: int) -> float:
    every = (one | other).bit_count()
    return 1 - (one & other).bit_count() / every if every else 0.0


def _lines(file: Path, numbers: set[int]) -> Iterator[bytes]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number in numbers:
                yield line.strip()
