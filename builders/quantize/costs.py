"""Round one layer at a time in memory, by ModelOpt's fake quantization, and look at the output."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import modelopt.torch.quantization as mtq
import torch
from torch import Tensor, nn

from builders import files
from builders.autopsy.layers import FUSED
from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.progress import Progress
from builders.quantize import emulation, loading, modelopt
from builders.quantize.calibration import Batches, Corpus, bucket
from builders.quantize.configuration import config
from builders.quantize.loop import Loop, forward, is_of_weight, quantizers
from builders.quantize.sensitivity import Cost, Sensitivity
from builders.recipe import Recipe

_TOKENS: Final = 2048  # fed at once while scales are set
_LOGITS: Final = 1 << 27  # of the unrounded model that are kept to compare with: half a gigabyte
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")


def measure(
    checkpoint: Checkpoint, recipe: Recipe, corpus: Corpus, scratch: Path, progress: Progress
) -> Sensitivity:
    """Measure what each group of matrices costs under a recipe."""
    log = scratch / f"{recipe.name}.jsonl"
    known = _read(log)
    with modelopt.quiet(), torch.inference_mode(), emulation.available():
        model = loading.load(checkpoint, progress)
        rows = modelopt.rows(checkpoint, model, corpus)
        batches = bucket(_slice(rows, model), tokens=_TOKENS)
        with modelopt.wrapped(f"ModelOpt could not round {checkpoint.path} by {recipe}"):
            chosen = emulation.where_needed(config(recipe, checkpoint), loading.device())
            mtq.quantize(model, chosen, Loop(bucket(rows, tokens=_TOKENS), progress).run)
            modelopt.settle(model, recipe)
            groups = _groups(model)
            parts = [part for one in groups.values() for part in one]
            _switch(parts, on=False)
            before = [_logprobs(model, batch) for batch in batches]
            what = f"measure {recipe.name}, layer by layer"
            for number, (group, own) in enumerate(groups.items()):
                progress(what, number, len(groups), unit="layers")
                if group not in known:
                    _switch(own, on=True)
                    known[group] = _cost(model, batches, before, _said(recipe, group, model))
                    _switch(own, on=False)
                    _append(log, known[group])
            progress(what, len(groups), len(groups), unit="layers")
    tokens = sum(len(row) for batch in batches for row in batch)
    return Sensitivity(tokens=tokens, costs=tuple(known[group] for group in groups))


def _slice(rows: Sequence[Sequence[int]], model: nn.Module) -> list[Sequence[int]]:
    """Take as many rows as their logits may be kept of, one at least."""
    size = int(model.config.get_text_config().vocab_size)  # type: ignore[union-attr,operator]
    found: list[Sequence[int]] = []
    room = _LOGITS // size
    for row in rows:
        room -= len(row)
        if found and room < 0:
            break
        found.append(row)
    return found


Group = tuple[int, str]


def _groups(model: nn.Module) -> dict[Group, list[Any]]:
    """Group the quantizers that are on by layer and by what runtimes store as one matrix."""
    on = [(name, part) for name, part in quantizers(model) if part.is_enabled]
    owners = {_owner(name) for name, _ in on if is_of_weight(name)}
    found: dict[Group, list[Any]] = {}
    for name, part in on:
        if _owner(name) in owners:
            found.setdefault(_group(_owner(name)), []).append(part)
    if not found:
        raise ToolError("no layer is quantized by this recipe", hint="exclude fewer modules")
    return dict(sorted(found.items()))


def _owner(name: str) -> str:
    """Return the module that a quantizer belongs to; those of experts lie in a list."""
    parent, _, last = name.rpartition(".")
    return parent.rpartition(".")[0] if last.isdigit() else parent


def _group(module: str) -> Group:
    found = _LAYER.search(module)
    layer, inside = (int(found[1]), found[2]) if found else (-1, module)
    parent, dot, own = inside.rpartition(".")
    for fused in FUSED:
        if own in fused:
            return layer, f"{parent}{dot}{'+'.join(fused)}"
    return layer, inside


def _said(recipe: Recipe, group: Group, model: nn.Module) -> Cost:
    """Describe a group, its costs not measured yet."""
    weights = sum(
        part.numel()
        for name, module in model.named_modules()
        if _group(name) == group
        for part in module.parameters(recurse=False)
        if part.ndim > 1
    )
    layer, block = group
    return Cost(
        recipe=recipe.name, layer=layer, block=block, weights=weights, divergence=0.0, changed=0.0
    )


def _switch(parts: Sequence[Any], *, on: bool) -> None:
    for part in parts:
        part.enable() if on else part.disable()


def _cost(model: nn.Module, batches: Batches, before: Sequence[Tensor], said: Cost) -> Cost:
    divergence, changed, tokens = 0.0, 0, 0
    for batch, base in zip(batches, before, strict=True):
        after = _logprobs(model, batch)
        divergence += float((base.exp() * (base - after)).sum())
        changed += int((base.argmax(-1) != after.argmax(-1)).sum())
        tokens += base.shape[0] * base.shape[1]
    row = asdict(said) | {
        "divergence": max(0.0, divergence / tokens),  # rounding may leave it below zero
        "changed": changed / tokens,
    }
    return Cost(**row)


def _logprobs(model: nn.Module, batch: Sequence[Sequence[int]]) -> Tensor:
    logits = forward(model, batch)
    assert logits is not None
    return logits.float().log_softmax(-1)


def _read(log: Path) -> dict[Group, Cost]:
    """Read what an earlier run measured; a line that was cut off is dropped."""
    try:
        text = log.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    lines = text.split("\n")[:-1]
    files.write_atomic(log, "".join(f"{line}\n" for line in lines))
    costs = [Cost(**json.loads(line)) for line in lines]
    return {(cost.layer, cost.block): cost for cost in costs}


def _append(log: Path, cost: Cost) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(cost)) + "\n")
