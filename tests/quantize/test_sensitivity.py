"""Costs are those of one layer rounded alone, ranked rightly, and never measured twice."""

import json
from dataclasses import replace

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.errors import PlanError, UsageError
from builders.progress import silent
from builders.quantize.sensitivity import Sensitivity, chosen, corpus_of, measure
from builders.recipe import KEEP
from fakes.checkpoints import (
    bfloat16,
    read_safetensors,
    tiny_llama,
    tiny_qwen3_moe,
    write_safetensors,
)

BLOCKS = [
    "mlp.down_proj",
    "mlp.gate_proj+up_proj",
    "self_attn.o_proj",
    "self_attn.q_proj+k_proj+v_proj",
]


@pytest.fixture(scope="module")
def corpus(calibration):
    return corpus_of(replace(calibration, samples=6, length=32))


def measured(source, names, corpus, place, progress=silent, keep=KEEP):
    out = place / "out"
    out.mkdir(exist_ok=True)
    measure(source, chosen(names, keep), corpus, out, place / "scratch", progress)
    return Sensitivity.read(out)


@pytest.fixture(scope="module")
def found(source, corpus, tmp_path_factory):
    return measured(source, ("fp8", "nvfp4"), corpus, tmp_path_factory.mktemp("costs"))


def test_every_group_of_every_layer_has_a_cost_in_every_format(source, found):
    for recipe in ("fp8", "nvfp4"):
        own = [cost for cost in found.costs if cost.recipe == recipe]
        assert [(cost.layer, cost.block) for cost in own] == [
            (layer, block) for layer in range(source.layers) for block in BLOCKS
        ]
    assert all(cost.divergence > 0 and 0 <= cost.changed <= 1 for cost in found.costs)
    assert found.tokens > 6 * 8


def test_four_bits_cost_more_than_eight(found):
    fp8, nvfp4 = ([c.divergence for c in found.costs if c.recipe == n] for n in ("fp8", "nvfp4"))
    assert all(four > 2 * eight for eight, four in zip(fp8, nvfp4, strict=True))


def test_weights_are_counted(found):
    by_block = {cost.block: cost.weights for cost in found.costs}
    assert by_block["mlp.gate_proj+up_proj"] == 2 * 256 * 128
    assert by_block["self_attn.q_proj+k_proj+v_proj"] == 128 * 128 + 2 * 64 * 128


def test_a_layer_that_rounds_badly_stands_out(corpus, tmp_path):
    """One huge value that meets nothing leaves no room for the others in INT4."""
    path = tiny_llama(tmp_path / "m", layers=3)
    tensors = read_safetensors(path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    wide = (tensors[name][1].astype(np.uint32) << 16).view(np.float32)
    wide[:, 0] = 40 * np.abs(wide).max()
    tensors[name] = ("BF16", bfloat16(wide))
    tensors["model.layers.1.post_attention_layernorm.weight"][1][0] = 0
    write_safetensors(path / "model.safetensors", tensors)
    costs = measured(Checkpoint.open(path), ("int4_rtn",), corpus, tmp_path).costs
    worst = max(costs, key=lambda cost: cost.divergence)
    assert (worst.layer, worst.block) == (1, "mlp.gate_proj+up_proj")


def test_experts_of_a_layer_are_one_group(corpus, tmp_path):
    source = Checkpoint.open(tiny_qwen3_moe(tmp_path / "m"))
    costs = measured(source, ("fp8",), corpus, tmp_path).costs
    blocks = {cost.block: cost.weights for cost in costs}
    assert blocks["mlp.experts"] == 4 * 3 * 256 * 128
    assert "mlp.gate" not in blocks


def test_what_was_measured_before_a_stop_is_not_measured_again(source, corpus, found, tmp_path):
    class Stopped(Exception):
        pass

    def stop(what, done, total, *, unit=""):
        if unit == "layers" and done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        measured(source, ("fp8",), corpus, tmp_path, stop)
    log = tmp_path / "scratch" / "fp8.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 3
    rows[0]["divergence"] = 42.0
    lines = [json.dumps(row) + "\n" for row in rows]
    log.write_text("".join(lines) + '{"recipe": "fp8", "lay')  # as a kill leaves it
    again = measured(source, ("fp8",), corpus, tmp_path)
    assert again.costs[0].divergence == 42.0
    assert again.costs[1:] == found.costs[1:8]
    assert len([json.loads(line) for line in log.read_text().splitlines()]) == 8


def test_left_alone_layers_have_no_cost(source, corpus, tmp_path):
    costs = measured(source, ("mxfp8",), corpus, tmp_path, keep=(*KEEP, "*mlp*", "*layers.0")).costs
    assert {(cost.layer, cost.block) for cost in costs} == {(1, BLOCKS[2]), (1, BLOCKS[3])}


def test_what_cannot_be_measured_is_refused(source, corpus, tmp_path):
    with pytest.raises(UsageError, match="'fp9' is no recipe") as caught:
        chosen(("fp9",), KEEP)
    assert caught.value.hint == "did you mean fp8?"
    for names in (("mixed",), ("gptq_int4",), ()):
        with pytest.raises(UsageError, match="no recipe whose layers can be measured"):
            chosen(names, KEEP)
    odd = Checkpoint.open(tiny_llama(tmp_path / "m", intermediate=200, layers=1))
    with pytest.raises(PlanError, match="blocks of 128"):
        measured(odd, ("int4_rtn",), corpus, tmp_path)
