"""What was written stands for the source's own values: rows of every layer, held against it.

The autopsy looks at headers and scales. It cannot see nibbles in the wrong order, rows of another
layer or a scale that is a thousand times too large; here 128 rows of each quantized matrix are
widened again and compared, and pieces of all that was left alone. On the CPU: a few rows are soon
read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Self

import torch
from safetensors import safe_open
from torch import Tensor

from builders.autopsy import Recognized
from builders.autopsy.layers import Layer, Role, layers
from builders.autopsy.storage import Part, Shape, Storage
from builders.autopsy.stored import examine
from builders.autopsy.values import Files
from builders.checkpoint import Checkpoint, TensorInfo
from builders.formats import Format
from builders.numerics import readers
from builders.numerics.published import FOREIGN
from builders.numerics.readers import Parts

ROWS: Final = 128  # a multiple of what any packing or tile joins
_SMALL: Final = 1 << 20  # weights of a matrix that is read whole
_FLAT: Final = 1 << 28  # weights that are widened where rows cannot be read by themselves
# How far rounding moves a matrix at most: the norm of the difference over the norm of the matrix.
# Worst is a block with one large value and all others between two codes: integers in groups of 128
# and four bits 0.63, in rows of 14,336 and eight 0.43, MXFP4 0.42. Usual distances are a quarter.
BOUNDS: Final[Mapping[Format, float]] = {
    Format.FP8: 0.08, Format.MXFP8: 0.08, Format.INT8: 0.45, Format.NVFP4: 0.35,
    Format.MXFP4: 0.45, Format.NF4: 0.35, Format.INT4: 0.65,
}  # fmt: skip
_TURNS: Final = 3  # of fitting; what two factors made is then found to a ten-thousandth
_TUNED: Final = 1.3  # GPTQ and AWQ move weights on purpose, for the sake of activations


@dataclass(frozen=True, slots=True)
class Apart:
    """A layer or tensor whose values are not those of the source."""

    where: str
    what: str


def apart(
    exported: Checkpoint, source: Checkpoint, known: Recognized, *, tuned: bool
) -> Iterator[Apart]:
    """Find what does not stand for the source in an export that is ``known`` to be sound.

    ``tuned``: norms and weights were moved on purpose. Layers that have other names in the source,
    or none, are passed over.
    """
    grouped = layers(exported.tensors)
    yield from _untouched(exported, source, grouped.values(), tuned=tuned)
    rounded = [
        (layer, storage)
        for layer in grouped.values()
        if (storage := _storage(layer, known)) and _original(source, layer)
    ]
    with _Rows(exported) as ours, _Rows(source) as theirs:
        for number, (layer, storage) in enumerate(_affordable(rounded)):
            error = _distance(*_both(layer, storage, known, ours, theirs, number), fitted=tuned)
            most = BOUNDS[storage.weights] * (_TUNED if tuned else 1)
            if not error <= most:  # NaN too
                yield Apart(
                    layer.module,
                    f"stands {error:.0%} away from the source's weights, where rounding to "
                    f"{storage.name} moves at most {most:.0%}",
                )


def _untouched(
    exported: Checkpoint, source: Checkpoint, found: Iterable[Layer], *, tuned: bool
) -> Iterator[Apart]:
    """Find tensors of the source's own name, dtype and shape that are not equal wherever looked."""
    with Files(exported.path) as ours, Files(source.path) as theirs:
        for layer in found:
            for part, mine in layer.parts.items():
                its = source.tensors.get(layer.name(part))
                moved = tuned and (layer.role is Role.NORM or part == "bias")
                if moved or its is None or (mine.dtype, mine.shape) != (its.dtype, its.shape):
                    continue
                if not ours.same(mine, its, of=theirs):
                    yield Apart(layer.name(part), "was left alone, but differs from the source's")


def _storage(layer: Layer, known: Recognized) -> Storage | None:
    """Return how a layer is stored, if it is quantized in a format that is read here."""
    found = examine(layer, known).storage
    return found if found and found.name in _readers(known) else None


def _readers(known: Recognized) -> Mapping[str, readers.Reader]:
    return readers.READERS if known.method == "modelopt" else FOREIGN


def _original(source: Checkpoint, layer: Layer) -> TensorInfo | None:
    return source.tensors.get(f"{layer.module}.weight")


def _affordable(rounded: list[tuple[Layer, Storage]]) -> list[tuple[Layer, Storage]]:
    """Take every layer whose rows can be read; of others, evenly spread, as many as are cheap."""
    flat = sum(_weights(layer, storage) for layer, storage in rounded if storage.flat)
    step = max(1, -(-flat // _FLAT))
    return [one for number, one in enumerate(rounded) if not one[1].flat or number % step == 0]


def _weights(layer: Layer, storage: Storage) -> int:
    return prod(storage.sides(layer.parts[storage.codes].shape) or (0,))


def _distance(widened: Tensor, original: Tensor, *, fitted: bool) -> float:
    """Return how far the widened rows are from the source's, as a share of these.

    AWQ multiplies inputs by factors that it takes out again in the norm or the rows of the matrix
    before: ``fitted`` gives each input and each row the factor that fits best, in turns.
    """
    widened, original = widened.double(), original.double()  # squares overflow single precision
    for axis in (0, 1) * _TURNS if fitted else ():
        square = (widened * widened).sum(axis, keepdim=True)
        product = (widened * original).sum(axis, keepdim=True)
        widened = widened * product / torch.where(square > 0, square, 1.0)
    length = original.norm()
    return float((widened - original).norm() / length) if length else 0.0


def _both(
    layer: Layer, storage: Storage, known: Recognized, ours: "_Rows", theirs: "_Rows", number: int
) -> tuple[Tensor, Tensor]:
    """Return some rows of a layer as they were written, widened, and as the source has them."""
    out = theirs.checkpoint.tensors[f"{layer.module}.weight"].shape[0]
    window = _window(out, _weights(layer, storage), number, flat=storage.flat)
    parts = {
        name: ours.read(layer.name(name), _cut(storage, part, info.shape, out, window))
        for name, part in storage.every.items()
        if (info := layer.parts.get(name))
    }
    original = theirs.read(f"{layer.module}.weight", {0: window}).float()
    return _widened(parts, storage, known), original


def _window(out: int, weights: int, number: int, *, flat: bool) -> slice:
    """Choose the rows: all of a small matrix, else a window that wanders from layer to layer."""
    if flat or weights <= _SMALL or out < 2 * ROWS:
        return slice(0, out)
    begin = number % (out // ROWS) * ROWS
    return slice(begin, begin + ROWS)


def _cut(storage: Storage, part: Part, stored: Shape, out: int, window: slice) -> dict[int, slice]:
    """Return what a part of this shape has of some rows, by dimension; empty where all share it."""
    rows = window.stop - window.start
    if storage.flat or rows == out:
        return {}
    wide = 4 * ROWS  # in features; more than a tile, of which one alone has no dimensions
    whole, piece = (storage.shapes(part, (1, count, wide)) for count in (out, rows))
    pairs = [(one, few) for one, few in zip(whole, piece, strict=True) if len(one) == len(stored)]
    axes = zip(*pairs[0], strict=True) if pairs else ()
    return {
        axis: slice(window.start * few // rows, window.start * few // rows + few)
        for axis, (every, few) in enumerate(axes)
        if every != few
    }


def _widened(parts: Parts, storage: Storage, known: Recognized) -> Tensor:
    """Widen what stands for a weight, with the factors of its inputs that smoothing took out."""
    alone = dict(parts) | {"input_scale": torch.ones(())}
    decoded = _readers(known)[storage.name].decode(alone, storage.group)
    gain = decoded.gain if decoded.gain.ndim == 0 else decoded.gain[:, None]
    matrix = decoded.matrix * gain
    smooth = parts.get("pre_quant_scale")
    return matrix if smooth is None else matrix * smooth.float()


class _Rows:
    """Reads tensors, or rows of them, from files that are opened once."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def read(self, name: str, cut: Mapping[int, slice]) -> Tensor:
        """Return a tensor, or what a slice of each dimension leaves of it."""
        info = self.checkpoint.tensors[name]
        if info.file not in self._files:
            opened = safe_open(self.checkpoint.path / info.file, framework="pt")
            self._files[info.file] = self._stack.enter_context(opened)
        file = self._files[info.file]
        if not cut:
            found: Tensor = file.get_tensor(name)
        else:
            every = (cut.get(axis, slice(None)) for axis in range(len(info.shape)))
            found = file.get_slice(name)[tuple(every)]
        return found
