"""Hold a checkpoint against the one it was made from: tensors, shapes, settings of the model."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.layers import Layer, Role, layers
from builders.autopsy.model import setting
from builders.autopsy.settings import differing, rope
from builders.autopsy.stored import KV_PARTS, SCALES, Examined
from builders.checkpoint import Checkpoint

_SETTINGS: Final = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "moe_intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "hidden_act", "rms_norm_eps", "layer_norm_epsilon", "sliding_window", "num_experts",
    "num_local_experts", "n_routed_experts", "num_experts_per_tok", "tie_word_embeddings",
)  # fmt: skip


def compare(
    checkpoint: Checkpoint, examined: Mapping[str, Examined], base: Checkpoint
) -> Iterator[Finding]:
    """Find what a checkpoint lost, gained or changed against its base."""
    yield from _settings(checkpoint, base)
    originals = layers(base.tensors)
    common = originals.keys() & examined.keys()
    if len(common) * 2 < len(originals):
        what = f"has other names for its modules: {len(common)} of {len(originals)} are here"
        yield found("base-unlike", base.path.name, what)
        return
    apart = _apart(originals.values(), [one.layer for one in examined.values()])
    tied = setting(base.config, "tie_word_embeddings") is True
    for module, original in originals.items():
        one = examined.get(module)
        if one is not None:
            yield from _layer(original, one)
        elif not (tied and original.role is Role.OUTPUT) and not _stacked(module, apart):
            yield from _missing(original)
    for module, one in examined.items():
        if module not in originals and not _stacked(module, apart):
            yield from _extra(one, None)


def _settings(checkpoint: Checkpoint, base: Checkpoint) -> Iterator[Finding]:
    for key in _SETTINGS:
        mine, its = setting(checkpoint.config, key), setting(base.config, key)
        if mine != its and its is not None:
            yield found("base-config", "config.json", f"says {key} {mine!r}, the base {its!r}")
    mine_rope, its_rope = (new or old for new, old in map(rope, (checkpoint.config, base.config)))
    for key in differing(mine_rope, its_rope):
        what = f"says {key} {mine_rope[key]}, the base {its_rope[key]}"
        yield found("base-rope", "config.json", what)
    if its_rope and not mine_rope:
        yield found("base-rope", "config.json", "has no rotary settings, the base has")


def _apart(originals: Iterable[Layer], others: Iterable[Layer]) -> set[str]:
    """Return the mixtures whose experts one side has stacked and the other one by one."""
    (stacked, single), (also_stacked, also_single) = map(_mixtures, (originals, others))
    return (stacked & also_single) | (single & also_stacked)


def _mixtures(side: Iterable[Layer]) -> tuple[set[str], set[str]]:
    found: tuple[set[str], set[str]] = (set(), set())
    for layer in side:
        at, experts, inside = layer.module.rpartition(".experts.")
        if experts and (layer.stacked or inside[0].isdigit()):
            found[not layer.stacked].add(at)
    return found


def _stacked(module: str, apart: set[str]) -> bool:
    return module.rpartition(".experts.")[0] in apart


def _layer(original: Layer, one: Examined) -> Iterator[Finding]:
    for part, before in original.parts.items():
        name, after = original.name(part), one.layer.parts.get(part)
        if part == original.codes and one.storage is not None:
            yield from _features(original, one)
        elif after is None:
            yield found("base-tensor-missing", name, "of the base is missing")
        elif after.shape != before.shape:
            what = f"has shape {list(after.shape)}, in the base {list(before.shape)}"
            yield found("base-shape", name, what)
        elif after.dtype != before.dtype:
            yield found("base-dtype", name, f"is {after.dtype}, in the base {before.dtype}")
    yield from _extra(one, original)


def _features(original: Layer, one: Examined) -> Iterator[Finding]:
    """The codes stand for as many weights as the base has, in rows of the same length."""
    before, storage = original.parts[original.codes], one.storage
    codes = one.layer.parts.get(storage.codes) if storage else None
    sides = storage.sides(codes.shape) if storage and codes else None
    if storage is None or sides is None:
        return
    counted = storage.flat or len(before.shape) > 2  # models stack experts this way or that
    experts, out, into = sides
    same = prod(sides) == prod(before.shape) if counted else (out, into) == before.shape
    if not same:
        stack = f"{experts} × " if experts > 1 else ""
        what = f"holds {stack}{out} × {into} weights, the base {' × '.join(map(str, before.shape))}"
        yield found("base-shape", one.layer.name(storage.codes), what)


def _missing(original: Layer) -> Iterator[Finding]:
    for part in original.parts:
        yield found("base-tensor-missing", original.name(part), "of the base is missing")


def _extra(one: Examined, original: Layer | None) -> Iterator[Finding]:
    known = SCALES | KV_PARTS | (original.parts.keys() if original else set())
    known |= one.storage.every.keys() if one.storage and original else set()
    for part in sorted(one.layer.parts.keys() - known):
        rule = "base-bias-extra" if part == "bias" and original else "base-tensor-extra"
        yield found(rule, one.layer.name(part), "does not belong to the base")
