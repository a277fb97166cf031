"""An export whose numbers are not the source's is found, though headers and scales look sound."""

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.autopsy import recognize
from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.formats import Format
from builders.numerics.blocks import E2M1_MAX, E4M3_MAX, mx_round, nvfp4_round
from builders.progress import silent
from builders.quantize import quantize, values, worker
from builders.quantize.check import check
from builders.quantize.values import BOUNDS, apart
from builders.recipe import Calibration, shipped
from fakes import gptqmodel_worker
from fakes.checkpoints import bfloat16, read_safetensors, write_safetensors
from fakes.environments import ready

UP = "model.layers.1.mlp.up_proj"
FILE = "model.safetensors"
RECIPES = ["fp8", "fp8_per_token", "fp8_block", "mxfp8", "nvfp4", "w4a16_nvfp4", "mxfp4",
           "int4_rtn", "int4_awq", "w4a8_awq", "nvfp4_awq", "int8_smoothquant", "bnb_int8",
           "bnb_nf4", "hqq_int4", "hqq_int8"]  # fmt: skip


def swapped(entry):
    dtype, codes = entry
    return dtype, (codes >> 4) | (codes << 4)


def rolled(entry):
    dtype, codes = entry
    return dtype, np.roll(codes, 1, axis=0)


def times(factor):
    def change(entry):
        dtype, scale = entry
        return dtype, (scale * np.float32(factor)).astype(np.float32)

    return change


def noise(entry):
    dtype, words = entry
    return dtype, bfloat16(np.random.default_rng(1).normal(0, 0.02, words.shape))


def planted(exported, path, **changes):
    """Copy an export and change some of its tensors."""
    path.mkdir()
    for file in exported.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    tensors = read_safetensors(path / FILE)
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    write_safetensors(path / FILE, tensors)
    return Checkpoint.open(path)


@pytest.mark.parametrize(
    "case",
    [
        ("w4a16_nvfp4", f"{UP}.weight", swapped, "away from the source's weights"),
        ("int4_rtn", f"{UP}.weight", swapped, "away"),
        ("mxfp8", f"{UP}.weight", rolled, "away"),
        ("nvfp4", f"{UP}.weight_scale_2", times(1000), "away"),
        (
            "fp8",
            f"{UP}.weight_scale",
            times(1.25),
            "2[5-9]% away .* FP8 moves at most 8%",
        ),
        ("fp8_per_token", f"{UP}.weight_scale", rolled, "away"),
        ("fp8", "model.embed_tokens.weight", noise, "was left alone, but differs"),
        ("int4_awq", "lm_head.weight", noise, "was left alone, but differs"),
        ("fp8", "model.norm.weight", noise, "was left alone, but differs"),
    ],
)
def test_numbers_that_are_not_the_sources_are_found(export, source, tmp_path, case):
    recipe, where, change, what = case
    chosen = shipped()[recipe]
    check(export(recipe), source, chosen)
    wrong = planted(export(recipe), tmp_path / "planted", **{where: change})
    name = where.removesuffix("_scale").removesuffix("_scale_2").removesuffix(".weight")
    with pytest.raises(ToolError, match=rf"{name}\S* .*{what}"):
        check(wrong, source, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_are_as_far_away_as_the_whole_matrix(export, source, monkeypatch, recipe):
    """A window that were cut from the wrong place of any part would be far off."""
    found = {}
    for small in (1 << 30, 0):
        monkeypatch.setattr(values, "_SMALL", small)
        found[small] = distances(monkeypatch, export(recipe), source, tuned="awq" in recipe)
    whole, rows = found.values()
    assert len(whole) == len(rows) > 10
    assert max(whole) < 0.17
    for one, other in zip(whole, rows, strict=True):
        assert other == pytest.approx(one, rel=0.25)


def distances(monkeypatch, exported, source, *, tuned=False):
    heard = []
    measure = values._distance

    def listening(*matrices, fitted):
        heard.append(measure(*matrices, fitted=fitted and tuned))
        return heard[-1]

    with monkeypatch.context() as patch:
        patch.setattr(values, "_distance", listening)
        known = recognize(exported)
        assert not list(apart(exported, source, known, tuned=True))  # whose bounds are wider
    return heard


@pytest.mark.parametrize("recipe", ["gptq_int4", "awq_int4"])
def test_columns_of_gptq_and_awq_are_cut_too(source, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(worker, "script", lambda _name: Path(gptqmodel_worker.__file__))
    ready(tmp_path, monkeypatch)
    (tmp_path / "texts.jsonl").write_text('{"text": "Return the item of the list."}\n')
    out = tmp_path / "out"
    out.mkdir()
    texts = Calibration(files=(tmp_path / "texts.jsonl",))
    quantize(source, shipped()[recipe], texts, out, silent)
    monkeypatch.setattr(values, "_SMALL", 0)
    assert max(distances(monkeypatch, Checkpoint.open(out), source)) < 0.17


def test_windows_wander_over_the_rows_and_never_leave_them():
    windows = [values._window(1000, 1 << 30, number, flat=False) for number in range(9)]
    assert windows[:8] == [slice(128 * n, 128 * n + 128) for n in (0, 1, 2, 3, 4, 5, 6, 0)]
    assert all(window.stop <= 1000 for window in windows)
    assert values._window(1000, 1 << 30, 3, flat=True) == slice(0, 1000)
    assert values._window(200, 1 << 30, 3, flat=False) == slice(0, 200)


def test_the_bounds_leave_room_for_the_worst_rounding_of_integers():
    """One large value, and all others halfway between two codes."""
    for format_, largest, size in ((Format.INT4, 7.0, 128), (Format.INT8, 127.0, 14336)):
        group = np.full(size, 0.5)
        group[0] = largest
        away = 0.5 * np.sqrt(size - 1) / np.linalg.norm(group)
        assert 0.9 * BOUNDS[format_] < away < BOUNDS[format_]


@pytest.mark.parametrize(
    ("format_", "round_"),
    [
        (Format.MXFP8, lambda block: mx_round(block, 32, E4M3_MAX)),
        (Format.MXFP4, lambda block: mx_round(block, 32, E2M1_MAX)),
        (Format.NVFP4, lambda block: nvfp4_round(block, 16, torch.tensor(1.0))),
    ],
)
def test_the_bounds_leave_room_for_the_worst_rounding_of_blocks(format_, round_):
    """One value of any size, and all others equal, in steps of a thousandth of it."""
    found = []
    for largest in (3.001, 4.0, 5.0, 5.999):
        block = torch.arange(1, 1001)[:, None].expand(1000, 32) / 1000 * largest
        block = block.clone()
        block[:, ::16] = largest
        found.append(((round_(block) - block).norm(dim=1) / block.norm(dim=1)).max())
    assert 0.4 * BOUNDS[format_] < max(found) < BOUNDS[format_]


def test_factors_of_inputs_and_rows_are_fitted_but_no_other_matrix_is():
    random = torch.Generator().manual_seed(4)
    matrix, other = (torch.randn(128, 512, generator=random) for _ in range(2))
    inputs = torch.rand(512, generator=random).mul(5).exp()
    rows = torch.rand(128, 1, generator=random).mul(5).exp()
    scaled = matrix * inputs * rows
    assert values._distance(scaled, matrix, fitted=True) < 1e-3
    assert values._distance(scaled, matrix, fitted=False) > 1
    assert values._distance(other, matrix, fitted=True) > 0.98
    assert values._distance(matrix.roll(1, 0), matrix, fitted=True) > 0.98
