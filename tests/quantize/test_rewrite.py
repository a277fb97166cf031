"""A checkpoint is rewritten in shards, whatever its size; damage and a full disk are said."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.progress import silent
from builders.quantize import rewrite
from fakes.checkpoints import bfloat16, read_safetensors, tiny_llama, write_safetensors

LAYER = "model.layers.0.mlp.up_proj"


def halved(weight):
    return {"half": weight / 2, "rows": torch.tensor(weight.shape[0])}


def test_chosen_layers_are_replaced_and_all_else_is_the_same(source, tmp_path):
    rewrite.rewrite(source, {LAYER}, halved, tmp_path, silent)
    before, after = (load_file(path / "model.safetensors") for path in (source.path, tmp_path))
    assert torch.equal(after.pop(f"{LAYER}.half"), before.pop(f"{LAYER}.weight") / 2)
    assert after.pop(f"{LAYER}.rows") == 256
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_is_larger_than_a_shard_is_cut_and_has_an_index(source, tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "SHARD_BYTES", 1 << 20)
    rewrite.rewrite(source, (), halved, tmp_path, silent)
    names = sorted(path.name for path in tmp_path.iterdir())
    count = len(names) - 1
    assert count > 1
    assert names[0] == f"model-00001-of-{count:05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == source.tensors.keys()
    assert index["metadata"]["total_size"] == source.weight_bytes


def test_progress_counts_bytes_to_the_end(source, tmp_path):
    heard = []
    rewrite.rewrite(source, (), halved, tmp_path, lambda *a, unit: heard.append((*a, unit)))
    assert heard[0] == ("quantize", 0, source.weight_bytes, "bytes")
    assert heard[-1] == ("quantize", source.weight_bytes, source.weight_bytes, "bytes")


@pytest.mark.parametrize(
    ("dtype", "make", "what"),
    [
        ("BF16", lambda shape: bfloat16(np.full(shape, np.nan, np.float32)), "NaN or infinity"),
        ("I8", lambda shape: np.ones(shape, np.int8), "not a format to quantize from"),
    ],
)
def test_a_weight_that_cannot_be_rounded_is_named(tmp_path, dtype, make, what):
    path = tiny_llama(tmp_path / "m", layers=1)
    tensors = read_safetensors(path / "model.safetensors")
    name = f"{LAYER}.weight"
    tensors[name] = (dtype, make(tensors[name][1].shape))
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(UsageError, match=f"{name} .*{what}"):
        rewrite.rewrite(Checkpoint.open(path), {LAYER}, halved, tmp_path / "out", silent)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    path = tiny_llama(tmp_path / "m", layers=1)
    tensors = read_safetensors(path / "model.safetensors")
    del tensors[f"{LAYER}.weight"]
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(UsageError, match=f"{LAYER}.weight is missing in LlamaForCausalLM"):
        rewrite.rewrite(Checkpoint.open(path), (), halved, tmp_path / "out", silent)


def test_a_tensor_that_is_left_alone_is_looked_at_too(tmp_path):
    path = tiny_llama(tmp_path / "m", layers=1)
    tensors = read_safetensors(path / "model.safetensors")
    words = tensors["model.norm.weight"][1].copy()
    words[3] = 0x7FC0  # NaN
    tensors["model.norm.weight"] = ("BF16", words)
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(UsageError, match=r"model\.norm\.weight holds NaN or infinity"):
        rewrite.rewrite(Checkpoint.open(path), {LAYER}, halved, tmp_path / "out", silent)


def test_a_shard_that_another_reader_finds_damaged_is_named(tmp_path):
    """Two tensors over the same bytes: the header's own sizes agree, but the library refuses it."""
    path = tiny_llama(tmp_path / "m", layers=1)
    source = Checkpoint.open(path)
    file = path / "model.safetensors"
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["twice"] = header["model.norm.weight"]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        rewrite.rewrite(source, (), halved, tmp_path, silent)


def test_a_place_that_cannot_be_written_is_a_tool_error(source, tmp_path):
    with pytest.raises(ToolError, match="writing"):
        rewrite.rewrite(source, (), halved, tmp_path / "absent", silent)


def test_a_model_that_transformers_does_not_know_cannot_be_declared(tmp_path):
    path = tiny_llama(tmp_path / "m", layers=1)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "llamma"}))
    with pytest.raises(UsageError, match="transformers cannot read it"):
        rewrite.declare(Checkpoint.open(path), {}, tmp_path)
