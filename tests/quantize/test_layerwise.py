"""A model that does not fit is calibrated layer by layer, to the very tensors of the whole one."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import memory, quantize
from builders.quantize.memory import Way, Workspace, choose, room
from builders.recipe import Memory, shipped
from fakes.checkpoints import (
    bfloat16,
    read_safetensors,
    tiny_gemma3,
    tiny_llama,
    tiny_qwen3_moe,
    write_safetensors,
)

MODEL = "model.safetensors"
LAYERED = ["fp8", "nvfp4", "nvfp4_mlp_only", "int8_smoothquant"]


def made(source, recipe, calibration, out, how, progress=silent, **workspace):
    out.mkdir()
    place = Workspace(memory=how, **workspace)
    quantize(source, recipe, calibration, out, progress, workspace=place)
    return out


def same(one, other):
    for name in ("config.json", "hf_quant_config.json", MODEL):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (tiny_llama, {"layers": 3}),
        (tiny_llama, {"layers": 2, "tied": True}),
        (tiny_gemma3, {}),
        (tiny_qwen3_moe, {}),
    ],
)
def test_the_files_are_those_of_the_whole_model(make, sizes, name, calibration, tmp_path):
    source = Checkpoint.open(make(tmp_path / "m", **sizes))
    if name == "int8_smoothquant" and make is tiny_qwen3_moe:
        pytest.skip("refused for mixtures of experts")
    recipe = shipped()[name]
    layered = made(source, recipe, calibration, tmp_path / "l", Memory.STREAMED)
    same(layered, made(source, recipe, calibration, tmp_path / "w", Memory.RESIDENT))


@pytest.mark.slow
def test_a_kv_cache_under_weights_alone_is_calibrated_layer_by_layer_too(
    source, calibration, tmp_path
):
    recipe = replace(shipped()["mxfp8"], kv_cache=Format.FP8)
    layered = made(source, recipe, calibration, tmp_path / "l", Memory.STREAMED)
    same(layered, made(source, recipe, calibration, tmp_path / "w", Memory.RESIDENT))


def test_it_is_chosen_where_the_whole_model_does_not_fit_and_told_in_numbers(
    source, calibration, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "free", lambda: 10**9)
    told = []

    def listen(what, done, total, *, unit=""):
        told.append(what)

    made(source, shipped()["fp8"], calibration, tmp_path / "out", Memory.AUTO, listen)
    needed = room(source, shipped()["fp8"]).needed / 1e9
    assert told[0] == (
        f"layer by layer: all at once needs {needed:.1f} GB of memory where 1.0 GB are free"
    )
    assert "calibrate layer by layer" in told


def test_what_fits_is_held_whole(source):
    assert choose(source, shipped()["fp8"], Memory.AUTO) is Way.WHOLE
    assert choose(source, shipped()["fp8"], Memory.STREAMED) is Way.LAYERS


@pytest.mark.parametrize(
    "case",
    [
        ("fp8", Memory.RESIDENT, "needs 1.2 GB of memory where 0.5 GB are free"),
        ("int4_awq", Memory.AUTO, "ModelOpt cannot export what AWQ changed"),
        ("mixed", Memory.AUTO, "the search of a mixture needs the whole model"),
        ("mixed", Memory.STREAMED, "the search of a mixture needs the whole model"),
    ],
)
def test_what_cannot_be_done_in_the_memory_is_refused_before_the_work(
    source, calibration, tmp_path, monkeypatch, case
):
    name, how, why = case
    monkeypatch.setattr(memory, "free", lambda: 5 * 10**8)
    with pytest.raises(PlanError, match=why):
        made(source, shipped()[name], calibration, tmp_path / "out", how)


def test_the_memory_that_is_free_is_what_the_kernel_says():
    assert 10**8 < memory.free() < 10**14


@pytest.mark.parametrize(
    ("most", "stat", "left"),
    [
        ("1000", "anon 400\ninactive_file 300\nactive_file 200\n", 400),
        ("1000", "", 100),
        ("800", "inactive_file 50\n", 0),
        ("max", "inactive_file 300\n", None),
    ],
)
def test_a_containers_memory_counts_cached_files_as_free(tmp_path, monkeypatch, most, stat, left):
    for name, text in (("max", most), ("current", "900"), ("stat", stat)):
        (tmp_path / name).write_text(text)
    paths = (str(tmp_path / name) for name in ("max", "current", "stat"))
    group = memory.Cgroup(*paths, "inactive_file")
    assert group.left() == left
    monkeypatch.setattr(memory, "CGROUPS", (group,))
    assert (memory.free() == left) is (left is not None)
    nowhere = memory.Cgroup("/none", "/none", "/none", "inactive_file")
    assert nowhere.left() is None


def test_weights_outside_the_layers_that_are_not_finite_are_named(calibration, tmp_path):
    path = tiny_llama(tmp_path / "m")
    tensors = read_safetensors(path / "model.safetensors")
    dtype, words = tensors["model.embed_tokens.weight"]
    words = words.copy()
    words[-1] = 0x7FC0  # NaN
    write_safetensors(
        path / "model.safetensors", tensors | {"model.embed_tokens.weight": (dtype, words)}
    )
    with pytest.raises(UsageError, match=r"embed_tokens\.weight holds NaN"):
        made(Checkpoint.open(path), shipped()["fp8"], calibration, tmp_path / "o", Memory.STREAMED)


def test_activations_that_are_not_finite_are_named_by_layer(calibration, tmp_path):
    path = tiny_llama(tmp_path / "m")
    tensors = read_safetensors(path / MODEL)
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = ("BF16", bfloat16(np.full((128, 256), 3e38, np.float32)))
    write_safetensors(path / MODEL, tensors)
    with pytest.raises(ToolError, match=r"activations at .* are not finite"):
        made(Checkpoint.open(path), shipped()["fp8"], calibration, tmp_path / "o", Memory.STREAMED)


# Calibrates layer by layer, and dies when the third layer begins.
CHILD = """
import json, os, sys
from pathlib import Path
from builders.checkpoint import Checkpoint
from builders.quantize import quantize
from builders.quantize.memory import Workspace
from builders.recipe import Calibration, Memory, shipped

path, texts, out, scratch = map(Path, sys.argv[1:])
def progress(what, done, total, *, unit=""):
    if unit == "layers" and done == 3:
        os._exit(9)
out.mkdir()
calibration = Calibration(files=(texts,), samples=16, length=64, seed=1)
workspace = Workspace(memory=Memory.STREAMED, scratch=scratch)
quantize(Checkpoint.open(path), shipped()["fp8"], calibration, out, progress, workspace=workspace)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_layer_and_writes_the_same(calibration, tmp_path):
    source = Checkpoint.open(tiny_llama(tmp_path / "m", layers=4))
    argv = [source.path, calibration.files[0], tmp_path / "first", tmp_path / "scratch"]
    command = [sys.executable, "-W", "ignore", "-c", CHILD, *map(str, argv)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 9
    assert json.loads((tmp_path / "scratch" / "layers" / "manifest.json").read_text())
    told = []

    def listen(what, done, total, *, unit=""):
        if unit == "layers":
            told.append(done)

    fp8 = shipped()["fp8"]
    place = {"scratch": tmp_path / "scratch"}
    second = made(source, fp8, calibration, tmp_path / "l", Memory.STREAMED, listen, **place)
    assert len(set(told)) < 4
    assert not (tmp_path / "scratch").exists()
    same(second, made(source, fp8, calibration, tmp_path / "w", Memory.RESIDENT))
