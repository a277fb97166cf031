"""What a checkpoint declares of its quantization, whoever made it, held against its headers.

How a layer must lie in the files, and which runtimes read that, is told by `builders.autopsy`.
Knows no torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from builders.autopsy import Recognized, recognize
from builders.autopsy.layers import Layer, layers
from builders.autopsy.stored import examine, is_narrow
from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.formats import Format

KV_PARTS: Final = ("k_scale", "v_scale", "k_bias", "v_bias")
KV_FORMATS: Final = (Format.FP8, Format.NVFP4)
# Parts that change what the codes mean, and the only formats in which a reader minds them.
_MINDED: Final = {
    "weight_zero_point": ("W4A16", "W8A16"),
    "weight_g_idx": ("W4A16", "W8A16"),
    "input_zero_point": (),
}
_HEEDED: Final = "layer-sensitive"  # unwise, but it can be computed
_HINT: Final = "serve it with vllm, or quantize the original with a recipe of this package"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How one linear layer is stored: the format's name, input channels that share a scale, parts.

    The name is that of `builders.autopsy`, which ModelOpt and others (``foreign``) may share.
    """

    algorithm: str
    group: int
    parts: tuple[str, ...]
    foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a checkpoint says of its own quantization; all empty when it says nothing."""

    algorithm: str = ""
    kv_cache: Format = Format.BF16
    layers: Mapping[str, Scheme] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Self:
        """Read a declaration and check every layer's headers; a defect is a `ToolError`."""
        known = recognize(checkpoint)
        _check_kv_cache(checkpoint, known)
        found = layers(checkpoint.tensors).values()
        return cls(
            algorithm=known.algorithm,
            kv_cache=known.kv_cache,
            layers=dict(_schemes(checkpoint, found, known)),
        )

    def scheme(self, module: str) -> Scheme | None:
        """Return how a linear layer is stored, or None when it was left alone."""
        return self.layers.get(module)


def _check_kv_cache(checkpoint: Checkpoint, known: Recognized) -> None:
    kind = known.kv_cache
    promised = known.kv_static or known.method == "modelopt"  # whose cast has a scale of 1
    if kind.quantized and not (promised and kind in KV_FORMATS):
        raise ToolError(
            f"{checkpoint.path}: the embedded runtime has no KV cache in {kind.value} as "
            f"{known.method} declares it",
            hint=_HINT,
        )


def _schemes(
    checkpoint: Checkpoint, found: Iterable[Layer], known: Recognized
) -> Iterator[tuple[str, Scheme]]:
    for layer in found:
        findings = examine(layer, known).findings
        wrong = next((one for one in findings if one.stops and one.rule != _HEEDED), None)
        if wrong:
            raise ToolError(f"{checkpoint.path}: {wrong.where} {wrong.what}", hint=wrong.hint)
        if is_narrow(layer):
            yield layer.module, _scheme(checkpoint, layer, known)


def _scheme(checkpoint: Checkpoint, layer: Layer, known: Recognized) -> Scheme:
    stored = known.storage(layer.module)
    if stored is None:
        raise ToolError(
            f"{checkpoint.path}: {layer.module} is stored quantized, but nothing declares it",
            hint="quantize again: the declaration and the tensors must agree",
        )
    unread = (
        part for part, read in _MINDED.items() if part in layer.parts and stored.name not in read
    )
    if "embedded" not in stored.runtimes or any(unread):
        raise ToolError(
            f"{checkpoint.path}: {layer.module}: the embedded runtime cannot read {stored.name} of "
            f"{known.method}",
            hint=_HINT,
        )
    return Scheme(
        algorithm=stored.name,
        group=stored.group,
        parts=tuple(part for part in stored.every if part in layer.parts),
        foreign=known.method != "modelopt",
    )
