"""Read linear layers from a checkpoint, each by its own algorithm."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from builders.engine.embedded.declaration import Declaration, Scheme
from builders.engine.embedded.linear import Linear, Matrix, Memory, Rounder
from builders.engine.embedded.outliers import MixedLinear
from builders.engine.embedded.tensors import Tensors
from builders.errors import ToolError
from builders.numerics import packed
from builders.numerics.published import FOREIGN
from builders.numerics.readers import READERS, Parts, Reader

_OF_INPUTS: Final = ("pre_quant_scale", "input_scale", "activation_scale", "input_global_scale")


class Layers:
    """Makes linear layers from tensors; siblings that round alike share a rounder."""

    def __init__(
        self, tensors: Tensors, declaration: Declaration, dtype: torch.dtype, memory: Memory
    ) -> None:
        """Compute in ``dtype`` between the layers; ``memory`` is shared by all of them."""
        self._tensors, self._declaration = tensors, declaration
        self._dtype, self._memory = dtype, memory
        self._rounders: dict[object, Rounder] = {}

    def read(self, name: str, empty: nn.Linear, *, tied: str | None, logits: bool) -> Linear:
        """Read one layer; ``tied`` names the tensor whose values its weight shares.

        The layer that makes ``logits`` gives them out in float32, never rounded: of logits near
        20, bfloat16 tells no two apart that are nearer than an eighth.
        """
        source = self._source(f"{name}.weight", tied)
        scheme = self._declaration.scheme(name) if source == f"{name}.weight" else None
        bias = (
            self._tensors[f"{name}.bias"].float()
            if "bias" in dict(empty.named_parameters())
            else None
        )
        if scheme is None:
            layer = self._plain(self._tensors[source], bias, logits=logits)
        else:
            layer = self._quantized(name, scheme, bias, logits=logits)
        self._tensors.expect(source, layer.matrix.shape, (empty.out_features, empty.in_features))
        return layer

    def plain(self, name: str, values: Tensor) -> Linear:
        """Make a layer of a piece of the unquantized tensor ``name``."""
        if self._declaration.scheme(name) is not None or values.element_size() == 1:
            raise ToolError(
                f"{self._tensors.checkpoint.path}: {name} is quantized as one tensor, which the "
                "embedded runtime cannot read",
                hint="export again, with a matrix per expert",
            )
        return self._plain(values, None, logits=False)

    def _source(self, weight: str, tied: str | None) -> str:
        """Return the tensor that fills a weight; a tied one may be stored twice, if equally."""
        if tied is None or tied not in self._tensors:
            return weight
        if weight not in self._tensors:
            return tied
        plain = self._declaration.scheme(weight.removesuffix(".weight")) is None
        if plain and not torch.equal(self._tensors[weight], self._tensors[tied]):
            raise ToolError(
                f"{self._tensors.checkpoint.path}: config.json ties {weight} to {tied}, but the "
                "file has two different ones",
                hint="set tie_word_embeddings to false in config.json, or export again",
            )
        return weight

    def _plain(self, values: Tensor, bias: Tensor | None, *, logits: bool) -> Linear:
        matrix = Matrix(values, self._dtype, exact_sums=logits)
        return Linear(matrix, dtype=torch.float32 if logits else self._dtype, bias=bias)

    def _quantized(self, name: str, scheme: Scheme, bias: Tensor | None, *, logits: bool) -> Linear:
        parts = {part: self._tensors[f"{name}.{part}"] for part in scheme.parts}
        reader = _reader(scheme)
        decoded = reader.decode(self._held(parts, scheme), scheme.group)
        # Codes with their block scales fit bfloat16 exactly; float16 has too little range.
        codes = self._dtype if self._dtype == torch.float32 else torch.bfloat16
        held = codes if reader.rounding else self._dtype
        kind = MixedLinear if scheme.algorithm == "BNB_INT8" else Linear
        return kind(
            Matrix(decoded.matrix, held, exact_sums=logits),
            dtype=torch.float32 if logits else self._dtype,
            gain=None if decoded.gain.ndim == 0 and decoded.gain == 1 else decoded.gain,
            bias=bias,
            rounder=self._rounder(name, parts, scheme),
            memory=self._memory,
        )

    def _held(self, parts: Parts, scheme: Scheme) -> Parts:
        packs = scheme.foreign and scheme.algorithm in packed.READERS
        return packed.held(parts, self._dtype) if packs else parts

    def _rounder(self, name: str, parts: Parts, scheme: Scheme) -> Rounder | None:
        smooth = parts.get("pre_quant_scale")
        make = _reader(scheme).rounding
        if smooth is None and make is None:
            return None
        known = [parts[part] for part in _OF_INPUTS if part in parts]
        values = tuple(tuple(tensor.flatten().tolist()) for tensor in known)
        key = (name.rpartition(".")[0], scheme, values)
        if key not in self._rounders:
            self._rounders[key] = Rounder(
                smooth=None if smooth is None else smooth.to(self._dtype),
                rounding=None if make is None else make(parts, scheme.group),
            )
        return self._rounders[key]


def _reader(scheme: Scheme) -> Reader:
    return (FOREIGN if scheme.foreign else READERS)[scheme.algorithm]


def tied_weights(module: nn.Module) -> Mapping[str, str]:
    """Return which weights share another's values, as config.json decides."""
    tied: Mapping[str, str] = getattr(module, "all_tied_weights_keys", None) or {}
    return tied
