"""The model as a whole: every layer there, the output layer tied or its own, nothing left over."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.layers import Layer, Role
from builders.autopsy.names import globs
from builders.autopsy.recognized import mapping
from builders.autopsy.values import Files
from builders.checkpoint import Checkpoint, TensorInfo

_AT: Final = re.compile(r"^((?:.+\.)?(?:layers|h|blocks))\.(\d+)\.")
_ASIDE: Final = globs(("*vision*", "*visual*", "*audio*", "*encoder*", "*mtp*", "*adapter*"))
_INPUTS: Final = globs(
    ("*embed_tokens", "*wte", "*word_embeddings", "*embed_in", "*tok_embeddings")
)
_COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers")
# Left over from tools: quantizers' own state, buffers that readers compute themselves.
_LEFT_OVER: Final = globs(
    ("*_quantizer.*", "*_amax", "*rotary_emb.inv_freq", "*.masked_bias", "*._extra_state")
)


def examine(checkpoint: Checkpoint, layers: Mapping[str, Layer], files: Files) -> Iterator[Finding]:
    """Find layers that are missing, a broken tie, and tensors that nobody uses."""
    yield from _numbers(checkpoint)
    yield from _output(checkpoint, layers, files)
    for name in sorted(filter(_LEFT_OVER, checkpoint.tensors)):
        yield found("tensor-unused", name, "is used by no reader")


def setting(config: Mapping[str, object], key: str) -> object:
    """Return a setting of config.json, or of its text model; None when neither says it."""
    value = config.get(key)
    return mapping(config.get("text_config")).get(key) if value is None else value


def _numbers(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Every decoder layer has tensors, and there is none beyond the last."""
    counts = (setting(checkpoint.config, key) for key in _COUNTS)
    total = next((count for count in counts if isinstance(count, int)), 0)
    more = setting(checkpoint.config, "num_nextn_predict_layers")
    found_at: dict[str, dict[int, str]] = {}
    for name in checkpoint.tensors:
        at = _AT.match(name)
        if at and not _ASIDE(at[1]):
            found_at.setdefault(at[1], {}).setdefault(int(at[2]), name)
    if len(found_at) != 1 or not total or checkpoint.config.get("is_encoder_decoder") is True:
        return  # more than one tower: config.json does not say which one it counts
    ((prefix, there),) = found_at.items()
    for number in range(total):
        if number not in there:
            yield found("layer-missing", f"{prefix}.{number}", f"has no tensors, of {total} layers")
    for number in sorted(there):
        if number >= total + (more if isinstance(more, int) else 0):
            what = f"belongs to a layer beyond the {total} that config.json counts"
            yield found("tensor-unused", there[number], what)


def _output(checkpoint: Checkpoint, layers: Mapping[str, Layer], files: Files) -> Iterator[Finding]:
    tied = setting(checkpoint.config, "tie_word_embeddings")
    head = _weight(layer for layer in layers.values() if layer.role is Role.OUTPUT)
    words = _weight(layer for layer in layers.values() if _INPUTS(layer.module))
    if head is None:
        if tied is False and "ForCausalLM" in str(checkpoint.config.get("architectures")):
            yield found("output-missing", "lm_head.weight", "is missing, and nothing is tied")
    elif tied is True and words is not None:
        (name, mine), (other, its) = head, words
        alike = (mine.dtype, mine.shape) == (its.dtype, its.shape) and files.same(mine, its)
        if not alike:
            what = f"differs from {other}, but tie_word_embeddings is true"
            yield found("tied-broken", name, what)


def _weight(layers: Iterator[Layer]) -> tuple[str, TensorInfo] | None:
    """Return the first weight with the name of its tensor."""
    pairs = ((layer.name(layer.codes), layer.parts[layer.codes]) for layer in layers if layer.codes)
    return next(pairs, None)
