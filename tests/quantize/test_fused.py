"""What runtimes fuse into one matrix has one FP8 scale, so that none of them rounds it again."""

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import shipped
from fakes.checkpoints import (
    bfloat16,
    read_safetensors,
    tiny_llama,
    tiny_mixtral,
    tiny_qwen3_moe,
    write_safetensors,
)

MODEL = "model.safetensors"
TOGETHER = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A tiny Llama whose values and ups have a tenth of their neighbours' weights."""
    path = tiny_llama(tmp_path_factory.mktemp("uneven") / "llama")
    tensors = read_safetensors(path / MODEL)
    for name in [n for n in tensors if n.endswith(("v_proj.weight", "up_proj.weight"))]:
        wide = (tensors[name][1].astype(np.uint32) << 16).view(np.float32)
        tensors[name] = ("BF16", bfloat16(wide / 10))
    write_safetensors(path / MODEL, tensors)
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def exported(uneven, calibration, tmp_path_factory):
    out = tmp_path_factory.mktemp("united")
    quantize(uneven, shipped()["fp8"], calibration, out, silent)
    return read_safetensors(out / MODEL)


@pytest.mark.parametrize("block", TOGETHER)
def test_projections_that_are_fused_share_the_largest_weight_scale(uneven, exported, block):
    source = read_safetensors(uneven.path / MODEL)
    names = [f"model.layers.0.{block}.{name}" for name in TOGETHER[block]]
    scales = {float(exported[f"{name}.weight_scale"][1]) for name in names}
    wide = [(source[f"{n}.weight"][1].astype(np.uint32) << 16).view(np.float32) for n in names]
    assert scales == {float(np.float32(max(np.abs(one).max() for one in wide)) / np.float32(448))}


def test_what_is_never_fused_keeps_a_scale_of_its_own(exported):
    names = [f"model.layers.{layer}.mlp.down_proj.weight_scale" for layer in (0, 1)]
    assert float(exported[names[0]][1]) != float(exported[names[1]][1])


@pytest.mark.parametrize(
    ("family", "names"),
    [(tiny_mixtral, ("w1", "w3")), (tiny_qwen3_moe, ("gate_proj", "up_proj"))],
)
def test_the_two_matrices_of_an_expert_share_one_scale_too(family, names, calibration, tmp_path):
    source = Checkpoint.open(family(tmp_path / "model"))
    (tmp_path / "out").mkdir()
    quantize(source, shipped()["fp8"], calibration, tmp_path / "out", silent)
    written = read_safetensors(tmp_path / "out" / MODEL)
    ends = tuple(f"{name}.weight_scale" for name in names)
    experts = sorted({n.rpartition(".")[0].rpartition(".")[0] for n in written if n.endswith(ends)})
    assert len(experts) >= 8
    for expert in experts:
        first, second = (float(written[f"{expert}.{end}"][1]) for end in ends)
        assert first == second
