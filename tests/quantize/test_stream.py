"""Streaming writes the bytes of ModelOpt's export, in little memory, and goes on when killed."""

import json
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize, values
from builders.quantize.memory import STREAMED, Way, Workspace, choose
from builders.quantize.shapes import shape_refusals
from builders.recipe import Calibration, Memory, shipped
from fakes.checkpoints import (
    bfloat16,
    read_safetensors,
    tiny_gemma3,
    tiny_llama,
    tiny_mixtral,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_qwen3_moe,
    write_safetensors,
)

RECIPES = {name: one for name, one in shipped().items() if one.preset in STREAMED}
# Wide enough that every layer has more than one tile of 128 by 128.
WIDE = {"hidden": 256, "intermediate": 384, "kv_heads": 4}
FAMILIES = [
    (tiny_llama, WIDE),
    (tiny_llama, WIDE | {"tied": True}),
    (tiny_qwen2, WIDE | {"head_dim": 64}),
    (tiny_qwen3, WIDE | {"kv_heads": 2}),
    (tiny_gemma3, WIDE | {"head_dim": 64}),
    (tiny_phi3, WIDE | {"head_dim": 64}),
    (tiny_mixtral, {}),
    (tiny_qwen3_moe, {}),
]
MODEL = "model.safetensors"


def made(source, recipe, out, memory, **workspace):
    out.mkdir()
    quantize(
        source, recipe, Calibration(), out, silent, workspace=Workspace(memory=memory, **workspace)
    )
    return out


def test_what_is_planned_to_be_streamed_is_what_can_be_and_every_shipped_way_is_tried():
    """The plan knows the names without loading torch; each has a way, and a recipe below."""
    from builders.quantize.stream import WAYS

    assert WAYS.keys() == STREAMED == {recipe.preset for recipe in RECIPES.values()}


def same(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(("make", "sizes"), FAMILIES)
def test_every_file_is_that_of_modelopts_export(make, sizes, tmp_path):
    source = Checkpoint.open(make(tmp_path / "m", **sizes))
    for name, recipe in RECIPES.items():
        if not shape_refusals(source, recipe):
            streamed = made(source, recipe, tmp_path / f"{name}-s", Memory.STREAMED)
            same(streamed, made(source, recipe, tmp_path / f"{name}-r", Memory.RESIDENT))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_left_alone_layers_are_declared_alike(name, tmp_path):
    source = Checkpoint.open(tiny_llama(tmp_path / "m", **WIDE))
    keep = (*RECIPES[name].keep, "*layers.0", "*.1.mlp.down_proj")
    recipe = replace(RECIPES[name], keep=keep)
    streamed = made(source, recipe, tmp_path / "s", Memory.STREAMED)
    same(streamed, made(source, recipe, tmp_path / "r", Memory.RESIDENT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "w4a16_nvfp4"])
def test_hard_values_are_packed_alike(name, tmp_path, monkeypatch):
    """Zeros of both signs, ties, numbers next to nothing, large ones and blocks of zeros.

    No such matrix survives rounding, which the check would say.
    """
    monkeypatch.setattr(values, "apart", lambda *_, **__: ())
    path = tiny_llama(tmp_path / "m", layers=1)
    tensors = read_safetensors(path / MODEL)
    hard = [0.0, -0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 1e-39, 3e38, -6, 448, -0.25]
    weight = np.resize(np.array(hard, np.float32), (256, 128))
    weight[3], weight[5] = 0.0, 1e-30
    tensors["model.layers.0.mlp.up_proj.weight"] = ("BF16", bfloat16(weight))
    write_safetensors(path / MODEL, tensors)
    source = Checkpoint.open(path)
    streamed = made(source, RECIPES[name], tmp_path / "s", Memory.STREAMED)
    same(streamed, made(source, RECIPES[name], tmp_path / "r", Memory.RESIDENT))


def test_recipes_that_read_no_texts_are_streamed_by_themselves(source):
    for recipe in RECIPES.values():
        assert choose(source, recipe, Memory.AUTO) is Way.TENSORS
        assert choose(source, recipe, Memory.RESIDENT) is Way.WHOLE
        calibrated = replace(recipe, kv_cache=Format.FP8)
        assert choose(source, calibrated, Memory.AUTO) is Way.WHOLE


def test_nothing_of_the_work_is_left_in_the_export(source, tmp_path):
    out = made(source, RECIPES["mxfp8"], tmp_path / "out", Memory.AUTO)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",
        MODEL,
        "tokenizer.json",
        "tokenizer_config.json",
    ]


# Streams a checkpoint, makes each task last, and dies after so many of them.
CHILD = """
import os, sys
from pathlib import Path
from builders.checkpoint import Checkpoint
from builders.quantize import shards, stream
from builders.recipe import shipped

shards._SYNCED = 1
left, path, out, scratch = int(sys.argv[1]), *map(Path, sys.argv[2:])
def progress(what, done, total, *, unit=""):
    global left
    left -= 1
    if left == 0:
        os._exit(9)
out.mkdir()
recipe = shipped()["w4a16_nvfp4"]
stream.quantize(Checkpoint.open(path), recipe, None, out, scratch, progress)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_writes_the_same(source, tmp_path):
    def child(name, tasks):
        argv = [tasks, source.path, tmp_path / name, tmp_path / "scratch"]
        command = [sys.executable, "-c", CHILD, *map(str, argv)]
        return subprocess.run(command, check=False).returncode

    scratch = tmp_path / "scratch"
    assert child("first", 9) == 9
    done = (scratch / "done.log").read_text().splitlines()[1:]
    assert len(done) in (7, 8)  # the last one may not have lasted yet
    before = (scratch / MODEL).stat()
    with (scratch / "done.log").open("a") as log:
        log.write("model.layers.1.mlp.do")  # as a kill leaves it
    assert child("second", 10**6) == 0
    whole = made(source, RECIPES["w4a16_nvfp4"], tmp_path / "whole", Memory.STREAMED)
    assert (tmp_path / "second" / MODEL).read_bytes() == (whole / MODEL).read_bytes()
    assert (tmp_path / "second" / MODEL).stat().st_ino == before.st_ino


# Tells how many kilobytes at most were resident, with and without the work.
MEASURED = """
import resource, sys
from pathlib import Path
from builders.checkpoint import Checkpoint
from builders.quantize import stream
from builders.recipe import shipped

checkpoint = Checkpoint.open(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = Path(sys.argv[2])
out.mkdir()
stream.quantize(checkpoint, shipped()["mxfp8"], None, out, out / "s", lambda *a, **k: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_holds_a_few_tensors_whatever_the_models_size(tmp_path):
    """A model of 170 MB whose largest tensor has 8: read, widened to float32, scaled, rounded."""
    sizes = {"hidden": 1024, "intermediate": 3072, "heads": 8, "kv_heads": 8, "layers": 6}
    source = tiny_llama(tmp_path / "m", **sizes)
    command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    largest = max(info.bytes for info in Checkpoint.open(source).tensors.values())
    assert int(done.stdout) * 1024 < 12 * largest < Checkpoint.open(source).weight_bytes * 0.7


def test_two_shards_have_an_index_and_all_tensors(source, tmp_path, monkeypatch):
    from builders.quantize import shards

    whole = made(source, RECIPES["mxfp8"], tmp_path / "whole", Memory.AUTO)
    monkeypatch.setattr(shards, "SHARD_BYTES", 600_000)
    cut = made(source, RECIPES["mxfp8"], tmp_path / "cut", Memory.AUTO)
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in cut.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    tensors = {k: v for file in files for k, v in read_safetensors(cut / file).items()}
    wanted = read_safetensors(whole / MODEL)
    assert index["metadata"]["total_size"] == sum(data.nbytes for _, data in wanted.values())
    assert tensors.keys() == wanted.keys()
    for name, (dtype, data) in wanted.items():
        assert tensors[name][0] == dtype
        assert np.array_equal(tensors[name][1], data)


def test_a_full_disk_is_one_line_and_keeps_what_was_done(source, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ToolError, match="writing"):
            made(source, RECIPES["mxfp8"], tmp_path / "o", Memory.AUTO, scratch=tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "s").is_dir()


def rewritten(path, **changes):
    data = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(data))
    return Checkpoint.open(path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* is missing"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\..* has no place"),
        ({"intermediate_size": 384}, r"down_proj\.weight has another shape"),
        ({"model_type": "lama"}, r"unknown architecture LlamaForCausalLM \(lama\)"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(tmp_path, changes, what):
    odd = rewritten(tiny_llama(tmp_path / "m"), **changes)
    with pytest.raises(UsageError, match=what):
        made(odd, RECIPES["mxfp8"], tmp_path / "out", Memory.AUTO)


def test_weights_that_are_not_finite_are_named(tmp_path):
    path = tiny_llama(tmp_path / "m")
    tensors = read_safetensors(path / MODEL)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = ("BF16", bfloat16(np.full((256, 128), np.nan, np.float32)))
    write_safetensors(path / MODEL, tensors)
    with pytest.raises(UsageError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        made(Checkpoint.open(path), RECIPES["mxfp4"], tmp_path / "out", Memory.AUTO)


def widened(path, name):
    """Store one tensor of a BF16 checkpoint in float32."""
    tensors = read_safetensors(path / MODEL)
    wide = tensors[name][1].astype(np.uint32) << 16
    tensors[name] = ("F32", wide.view(np.float32))
    write_safetensors(path / MODEL, tensors)
    return Checkpoint.open(path)


def test_what_is_left_alone_keeps_a_format_of_its_own(tmp_path):
    odd = widened(tiny_llama(tmp_path / "m"), "model.norm.weight")
    out = made(odd, RECIPES["mxfp8"], tmp_path / "out", Memory.STREAMED)
    before, after = (read_safetensors(at / MODEL)["model.norm.weight"] for at in (odd.path, out))
    assert (before[0], before[1].tobytes()) == (after[0], after[1].tobytes())


def test_what_cannot_be_streamed_says_why(tmp_path):
    odd = widened(tiny_llama(tmp_path / "m"), "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(PlanError, match=r"rounds is stored in BF16, F32, not in the format of"):
        made(odd, RECIPES["mxfp8"], tmp_path / "out", Memory.STREAMED)
    odd = rewritten(tiny_llama(tmp_path / "n"), architectures=["CohereForCausalLM"])
    with pytest.raises(PlanError, match="not known which layers share a scale of w4a16_nvfp4"):
        made(odd, RECIPES["w4a16_nvfp4"], tmp_path / "out2", Memory.STREAMED)
