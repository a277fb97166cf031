"""What a CPU computes in place of ModelOpt's CUDA kernels is what ModelOpt's own tensors hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.errors import ToolError
from builders.quantize.backends import load

load("modelopt")  # it warns of itself where it is imported first

from modelopt.torch.quantization.config import QuantizerAttributeConfig  # noqa: E402
from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: E402
from modelopt.torch.quantization.nn.modules.tensor_quantizer import (  # noqa: E402
    is_registered_quant_backend,
)
from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor  # noqa: E402

from builders.quantize import emulation  # noqa: E402

NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
MXFP8 = {"num_bits": (4, 3), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}
MXFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}
MXFP6 = {"num_bits": (3, 2), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}


def quantizer(config):
    chosen = emulation.where_needed(
        {"quant_cfg": [{"quantizer_name": "*", "cfg": dict(config)}]}, torch.device("cpu")
    )
    return TensorQuantizer(QuantizerAttributeConfig(**chosen["quant_cfg"][0]["cfg"]))


def normal(seed, dtype, shape=(24, 96)):
    made = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=made)
    wide = torch.exp(2 * torch.randn(shape[:1], generator=made)).unsqueeze(-1)
    return (values * wide).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nvfp4_is_what_modelopts_tensor_holds(dtype):
    values = normal(1, dtype)
    packed, scale, unit = NVFP4QTensor.quantize(values, 16)
    wanted = packed.dequantize(scale=scale, double_scale=unit, block_sizes={-1: 16})
    with emulation.available():
        found = quantizer(NVFP4)(values)
    assert torch.equal(found.float(), wanted.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mxfp8_is_what_modelopts_tensor_holds(dtype):
    values = normal(2, dtype)
    packed, scale = MXFP8QTensor.quantize(values)
    wanted = packed.dequantize(scale=scale, block_sizes={-1: 32})
    with emulation.available():
        found = quantizer(MXFP8)(values)
    assert torch.equal(found.float(), wanted.to(dtype).float())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([MXFP8, MXFP4]))
def test_rounding_twice_to_powers_of_two_is_rounding_once(seed, config):
    values = normal(seed, torch.float32)
    rounding = quantizer(config)
    with emulation.available():
        once = rounding(values)
        assert torch.equal(rounding(once), once)


def test_zeros_stay_zeros():
    with emulation.available():
        for config in (NVFP4, MXFP8, MXFP4):
            assert not quantizer(config)(torch.zeros(2, 32)).any()


def test_the_gradient_is_that_of_no_rounding():
    values = normal(3, torch.float32).requires_grad_()
    with emulation.available():
        (quantizer(NVFP4)(values) * 3).sum().backward()
    assert torch.equal(values.grad, torch.full_like(values, 3))


def test_blocks_that_nobody_exports_are_refused():
    with emulation.available(), pytest.raises(ToolError, match="not computed on a CPU"):
        quantizer(MXFP6)(torch.ones(1, 32))


def test_a_gpu_keeps_its_own_kernels():
    config = {"quant_cfg": [{"quantizer_name": "*", "cfg": dict(NVFP4)}]}
    emulation.where_needed(config, torch.device("cuda"))
    assert "backend" not in config["quant_cfg"][0]["cfg"]


def test_the_hook_is_gone_afterwards():
    with emulation.available():
        assert is_registered_quant_backend(emulation.NAME)
    assert not is_registered_quant_backend(emulation.NAME)
