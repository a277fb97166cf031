"""Look at the values of tensors without loading them: scales, and weights that were never written.

Small tensors are read whole. So are the scales of a checkpoint as long as all of them together stay
under a limit; above it, and for weights always, a few evenly spread pieces stand for the rest.
"""

import os
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan, nan
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from builders.autopsy.storage import Judge
from builders.checkpoint import TensorInfo

_SMALL: Final = 64 << 10
_PIECE: Final = 4 << 10  # a multiple of every dtype's width
_CHUNK: Final = 8 << 20
_PIECES: Final = 16
_RUN: Final = 256
_ZEROS: Final = bytes(_RUN)


@dataclass(frozen=True, slots=True)
class Looked:
    """What the values of one tensor look like.

    ``problem`` names the first thing wrong: "nan", "infinite", "negative", "zero", "underflow" (a
    few zeros among many block scales), "least" (all of them the least power of two), or "".
    ``ones``: every value is exactly 1. ``read``: bytes.
    """

    problem: str = ""
    ones: bool = False
    read: int = 0


@dataclass(slots=True)
class Files:
    """The weight files of a checkpoint, each opened once, read in pieces."""

    path: Path
    _open: dict[str, int] = field(default_factory=dict)

    def read(self, info: TensorInfo, begin: int, length: int) -> bytes:
        """Read bytes of a tensor's data from ``begin`` on."""
        if info.file not in self._open:
            self._open[info.file] = os.open(self.path / info.file, os.O_RDONLY)
        length = min(length, info.bytes - begin)
        return os.pread(self._open[info.file], length, info.begin + begin)

    def chunks(self, info: TensorInfo) -> Iterator[bytes]:
        """Read a tensor from its beginning to its end."""
        for begin in range(0, info.bytes, _CHUNK):
            yield self.read(info, begin, _CHUNK)

    def pieces(self, info: TensorInfo) -> Iterator[bytes]:
        """Read a small tensor whole, of a large one pieces that are spread evenly over it.

        The middle comes first: the first and last rows of an embedding may be padding.
        """
        if info.bytes <= _SMALL:
            yield from self.chunks(info)
            return
        last = (info.bytes - _PIECE) // _PIECE
        places = sorted(range(_PIECES), key=lambda n: abs(2 * n - _PIECES))
        for place in places:
            yield self.read(info, last * place // (_PIECES - 1) * _PIECE, _PIECE)

    def zero_share(self, info: TensorInfo) -> float:
        """Return the share of zeros, in runs of 256 bytes; 0 where the first two pieces hold none.

        Zeros over more than half of a tensor in one stretch cover its middle, where these pieces
        lie: a tensor without zeros costs two reads.
        """
        zero = total = 0
        for number, piece in enumerate(self.pieces(info), 1):
            runs = range(0, len(piece), _RUN)
            zero += sum(piece[begin : begin + _RUN] in _ZEROS for begin in runs)
            total += len(runs)
            if number == 2 and not zero:
                break
        return zero / (total or 1)

    def look(self, info: TensorInfo, judge: Judge, *, whole: bool) -> Looked:
        """Judge the values of a scale; ``whole`` reads every byte."""
        reader = _READERS.get(info.dtype)
        if reader is None or judge is Judge.NOTHING:
            return Looked()
        total = wrong = read = 0
        problems: set[str] = set()
        ones = True
        for raw in self.chunks(info) if whole else self.pieces(info):
            seen = reader(raw)
            problems |= seen.problems
            ones, read = ones and seen.ones, read + len(raw)
            total, wrong = total + seen.count, wrong + seen.zeros
        if judge is Judge.MAGNITUDE:
            problems, ones = problems - {"zero"}, False
        if "zero" in problems and info.dtype == "F8_E4M3" and wrong * 100 < total:
            problems = problems - {"zero"} | {"underflow"}
        if wrong < total:
            problems = problems - {"least"}
        first = next((problem for problem in _PROBLEMS if problem in problems), "")
        return Looked(first, ones and total > 0, read)

    def least(self, info: TensorInfo) -> float:
        """Return the least of a small tensor's numbers, NaN where it has none."""
        wide = _WIDE.get(info.dtype)
        return min(wide(self.read(info, 0, info.bytes)), default=nan) if wide else nan

    def same(self, one: TensorInfo, other: TensorInfo, *, of: Self | None = None) -> bool:
        """Whether two tensors of one length are equal wherever one looks.

        ``of``: the files of the other tensor, where they are not these.
        """
        pairs = zip(self.pieces(one), (of or self).pieces(other), strict=True)
        return all(mine == its for mine, its in pairs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


_PROBLEMS: Final = ("nan", "infinite", "negative", "zero", "least", "underflow")


@dataclass(frozen=True, slots=True)
class _Seen:
    problems: frozenset[str]
    count: int
    zeros: int = 0
    ones: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to judge a float format by the byte that holds its sign and most of its exponent.

    ``rare`` are the values of that byte which infinity, NaN and zero have, and hardly any scale.
    """

    width: int
    rare: bytes
    one: bytes
    wide: Callable[[bytes], Sequence[float]]

    def see(self, raw: bytes) -> _Seen:
        """Judge by bytes, a thousand times faster than number by number; by number if need be."""
        count, high = len(raw) // self.width, raw[self.width - 1 :: self.width]
        if len(high.translate(None, self.rare)) < len(high):
            return _numbers(self.wide(raw))
        problems = {"negative"} if high.translate(None, _POSITIVE) else set()
        return _Seen(frozenset(problems), count, ones=raw == self.one * count)


_POSITIVE: Final = bytes(range(0x80))


def _numbers(values: Sequence[float]) -> _Seen:
    """Judge float scales; a sum of finite float32 cannot overflow a double."""
    total = sum(values)
    if not isfinite(total):
        return _Seen(frozenset({"nan" if isnan(total) else "infinite"}), len(values))
    least = min(values)
    problems = {"negative"} if least < 0 else {"zero"} if least == 0 else set()
    return _Seen(frozenset(problems), len(values), ones=least == max(values) == 1)


def _float32(raw: bytes) -> Sequence[float]:
    return array("f", raw)


def _bfloat16(raw: bytes) -> Sequence[float]:
    wide = bytearray(2 * len(raw))
    wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
    return array("f", bytes(wide))


def _float16(raw: bytes) -> Sequence[float]:
    return array("f", struct.unpack(f"<{len(raw) // 2}e", raw))


def _e4m3(raw: bytes) -> _Seen:
    """E4M3 has no infinity; 0x7F and 0xFF are NaN, 0x38 is one, 0x80 is minus zero."""
    zeros = raw.count(0)
    problems = {"nan"} if raw.count(0x7F) + raw.count(0xFF) else set()
    problems |= {"negative"} if raw.translate(None, _POSITIVE + b"\xff") else set()
    problems |= {"zero"} if zeros else set()
    return _Seen(frozenset(problems), len(raw), zeros, ones=raw.count(0x38) == len(raw))


def _e8m0(raw: bytes) -> _Seen:
    """E8M0 is a power of two with bias 127, always positive; 0xFF is NaN.

    A byte of zero, 2^-127, is what a block of zeros gets; where every byte is one, nothing was
    written, or no weight is left.
    """
    zeros = raw.count(0)
    problems = {"nan"} if raw.count(0xFF) else set()
    problems |= {"least"} if zeros else set()
    return _Seen(frozenset(problems), len(raw), zeros, ones=raw.count(127) == len(raw))


_WIDE: Final[Mapping[str, Callable[[bytes], Sequence[float]]]] = {
    "F32": _float32,
    "BF16": _bfloat16,
    "F16": _float16,
}
_READERS: Final[Mapping[str, Callable[[bytes], _Seen]]] = {
    "F32": _Kind(4, b"\0\x80\x7f\xff", b"\0\0\x80\x3f", _float32).see,
    "BF16": _Kind(2, b"\0\x80\x7f\xff", b"\x80\x3f", _bfloat16).see,
    "F16": _Kind(2, b"\0\x80\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff", b"\0\x3c", _float16).see,
    "F8_E4M3": _e4m3,
    "F8_E8M0": _e8m0,
    "U8": _e8m0,
}
