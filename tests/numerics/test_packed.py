"""Foreign packings are widened to what their own libraries make of them, value for value.

bitsandbytes and hqq are asked here. What GPTQModel 7.6.0 and compressed-tensors 0.19.0 made of one
small layer each, and what they widen it to, was recorded in `assets/packed.safetensors`: GPTQ with
activation order and AWQ on 64 × 64 in groups of 32 (the library's linear layer given unit vectors),
pack-quantized with and without zero points on 16 × 64 (its own decompression).
"""

from pathlib import Path

import bitsandbytes
import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import load_file

from builders.engine.embedded.linear import Matrix, Rounder
from builders.engine.embedded.outliers import MixedLinear
from builders.errors import ToolError
from builders.numerics import packed

RECORDED = load_file(Path(__file__).parents[1] / "assets" / "packed.safetensors")
RANDOM = torch.Generator().manual_seed(1)


def recorded(name):
    parts = {k.removeprefix(f"{name}."): v for k, v in RECORDED.items()}
    return {k: v for k, v in parts.items() if "." not in k}


def decoded(algorithm, parts, group=0):
    return packed.READERS[algorithm].decode(parts, group).matrix


@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("shape", [(96, 128), (5, 13)])
def test_nf4_is_what_bitsandbytes_dequantizes(doubled, shape):
    weight = torch.randn(shape, generator=RANDOM)
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=doubled, quant_type="nf4"
    )
    parts = {"weight": codes} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    assert torch.equal(decoded("BNB_NF4", parts), bnb.dequantize_4bit(codes, state))


def test_a_quant_state_that_is_no_json_is_told():
    parts = {"weight": torch.zeros(8, 1, dtype=torch.uint8)}
    parts[packed.NF4_STATE] = torch.tensor(list(b'{"shape": 3}'), dtype=torch.uint8)
    with pytest.raises(ToolError, match="quant_state cannot be read"):
        decoded("BNB_NF4", parts)


@pytest.mark.parametrize("bits", [4, 8])
def test_hqq_is_what_hqq_dequantizes(bits):
    weight = torch.randn(32, 128, generator=RANDOM)
    settings = BaseQuantizeConfig(nbits=bits, group_size=64, axis=1)
    layer = HQQLinear.from_weights(
        weight, None, settings, compute_dtype=torch.float32, device="cpu"
    )
    assert torch.equal(decoded(f"HQQ_INT{bits}", layer.state_dict()), layer.dequantize())


def test_gptq_with_activation_order_is_what_gptqmodel_widens():
    parts = recorded("gptq")
    assert len(parts["g_idx"].diff().unique()) > 1  # the order is no plain one
    wide = decoded("W4A16_GPTQ", packed.held(parts, torch.bfloat16), 32)
    assert torch.equal(wide.bfloat16().half(), parts["widened"])


def test_gptq_s_second_format_stores_zero_points_as_they_are():
    parts = recorded("gptq")
    second = dict(parts) | {"qzeros": parts["qzeros"] + 0x11111111}
    assert torch.equal(decoded("W4A16_GPTQ_V2", second, 32), decoded("W4A16_GPTQ", parts, 32))


def test_gptq_without_an_index_takes_its_groups_in_order():
    parts = recorded("gptq")
    plain = dict(parts) | {"g_idx": torch.arange(64) // 32}
    without = {k: v for k, v in parts.items() if k != "g_idx"}
    assert torch.equal(decoded("W4A16_GPTQ", without, 32), decoded("W4A16_GPTQ", plain, 32))


def test_gptq_with_eight_bits_packs_four_to_a_word():
    parts = {
        "qweight": torch.tensor([[0x04030201, 0x08070605, 0, 0]], dtype=torch.int32),
        "qzeros": torch.tensor([[0x00000100]], dtype=torch.int32),
        "scales": torch.tensor([[2.0, 1.0, 1.0, 1.0]]),
    }
    assert decoded("W8A16_GPTQ", parts)[:2].tolist() == [[0, 2, 4, 6], [3, 4, 5, 6]]


def test_awq_is_what_gptqmodel_widens():
    parts = recorded("awq")
    wide = decoded("AWQ", parts, 32)
    assert torch.equal(wide.bfloat16(), parts["widened"])


def test_awq_without_zero_points_is_centred():
    parts = {
        "qweight": torch.tensor([[-0x77777778]], dtype=torch.int32),  # eight codes of 8
        "scales": torch.ones(1, 8),
    }
    assert decoded("AWQ", parts).abs().max() == 0


@pytest.mark.parametrize("name", ["compressed", "compressed_zeros"])
def test_packed_integers_are_what_compressed_tensors_widens(name):
    parts = recorded(name)
    assert torch.equal(decoded("W4A16", parts, 32).bfloat16(), parts["widened"])


def mixed(weight, dtype):
    codes, largest, _ = bnb.int8_vectorwise_quant(weight.half())
    reader = packed.READERS["BNB_INT8"]
    found = reader.decode({"weight": codes, "SCB": largest}, 0)
    rounder = Rounder(smooth=None, rounding=reader.rounding({}, 0))
    layer = MixedLinear(
        Matrix(found.matrix, torch.bfloat16), dtype=dtype, gain=found.gain, rounder=rounder
    )
    return layer, codes, largest


def by_bitsandbytes(values, codes, largest):
    """Multiply as bitsandbytes does on a GPU: on a CPU it might widen the weight instead."""

    state = bitsandbytes.MatmulLtState()
    state.CB, state.SCB, state.threshold, state.has_fp16_weights = codes, largest, 6.0, False
    return MatMul8bitLt.apply(values.clone(), codes, None, None, state)


@pytest.mark.parametrize("large", [False, True])
def test_llm_int8_multiplies_as_bitsandbytes_does(large):
    weight = torch.randn(64, 128, generator=RANDOM) / 11
    values = torch.randn(2, 7, 128, generator=RANDOM)
    if large:
        values[0, 3, 17], values[1, 2, 100] = 20.0, -9.0
        values[1, :, 50] = 11.0
    layer, codes, largest = mixed(weight, torch.float16)
    ours, theirs = layer(values.half()).float(), by_bitsandbytes(values.half(), codes, largest)
    assert (ours - theirs.float()).norm() < 1e-3 * theirs.float().norm()
    assert packed.outliers(values).sum() == (3 if large else 0)


def test_outliers_keep_their_16_bits():
    """In INT8 the one large value would take all the others' steps away."""
    weight = torch.randn(64, 128, generator=RANDOM) / 11
    values = torch.randn(4, 128, generator=RANDOM) / 8
    values[:, 5] = 50.0
    layer, _, _ = mixed(weight, torch.bfloat16)
    exact = values.bfloat16().float() @ weight.half().float().t()
    assert (layer(values.bfloat16()).float() - exact).norm() < 0.02 * exact.norm()
