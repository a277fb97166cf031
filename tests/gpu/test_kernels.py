"""Our arithmetic of narrow formats is, element by element, that of ModelOpt's CUDA kernels.

Inputs spread over many powers of two and hold zeros, whole blocks of zeros and outliers. Values are
held as equal when they differ by less than 1 in 100,000: kernels multiply by their scales in
another order, while two neighbouring codes lie at least 1 in 15 apart.

MX formats, whose scales are powers of two, and all unpacking agree to the last element. Elsewhere
scales are found in another order of operations (1 / (largest / 448) here and in engines, 448 /
largest in ModelOpt; Triton divides approximately), which moves numbers that lie exactly between two
codes, as numbers in bfloat16 often do: up to `TIES` of them may fall to the other side.
"""

import pytest
import torch

from builders.numerics import blocks

TIES = 1e-3
SIGNED = (False, False)  # neither unsigned nor without the lowest code
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def values(request):
    """512 × 1024 numbers as this dtype holds them, in float32, on the GPU."""
    random = torch.Generator("cuda").manual_seed(7)
    shape = (512, 1024)
    found = torch.randn(shape, generator=random, device="cuda")
    found *= torch.exp2(torch.randint(-12, 4, (512, 64), generator=random, device="cuda")
                        ).repeat_interleave(16, 1)  # fmt: skip
    found[3] = 0
    found[7, :64] = 0
    found[11, ::97] *= 1000
    return found.to(request.param).float()


@pytest.fixture(scope="module")
def extensions():
    from modelopt.torch.quantization import extensions

    return extensions


def differing(ours, theirs):
    theirs = theirs.float()
    return int(((ours - theirs).abs() > 1e-5 * theirs.abs()).sum())


@pytest.mark.parametrize("clip", [1.0, 0.6])
def test_fp8_rounds_like_the_kernel(values, extensions, report, clip):
    largest = values.abs().max() * clip
    theirs = extensions.get_cuda_ext_fp8().fake_e4m3fy(values, largest)
    scale = largest / blocks.E4M3_MAX
    ours = blocks.round_e4m3(values * (1 / scale)) * scale
    count = differing(ours, theirs)
    report(test="kernel", format="FP8", clip=clip, differing=count, of=values.numel())
    assert count <= TIES * values.numel()


def test_fp8_per_token_rounds_like_the_kernel(values, extensions, report):
    largest = values.abs().amax(-1, keepdim=True)
    theirs = extensions.get_cuda_ext_fp8().fake_e4m3fy_with_axis(values, largest.flatten(), 0)
    scale = blocks.token_scale(values)
    ours = blocks.round_e4m3(values / scale) * scale
    count = differing(ours, theirs)
    report(test="kernel", format="FP8 per token", differing=count, of=values.numel())
    assert count <= TIES * values.numel()


@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_nvfp4_rounds_like_the_kernel(values, report, clip):
    from modelopt.torch.kernels.quantization import gemm

    largest = values.abs().max() * clip
    theirs = gemm.fp4_fake_quant_block(values, largest)
    unit = largest / (blocks.E2M1_MAX * blocks.E4M3_MAX)
    ours = blocks.nvfp4_round(values, 16, unit) * unit
    count = differing(ours, theirs)
    report(test="kernel", format="NVFP4", clip=clip, differing=count, of=values.numel())
    assert count <= TIES * values.numel()


@pytest.mark.parametrize("name", ["E4M3", "E2M1"])
def test_mx_rounds_like_the_kernel(values, extensions, report, name):
    mx = extensions.get_cuda_ext_mx(raise_if_failed=True)
    theirs = mx.fused_amax_convert(values, 32, getattr(mx.Types, name), mx.Types.E8M0)
    largest = {"E4M3": blocks.E4M3_MAX, "E2M1": blocks.E2M1_MAX}[name]
    ours = blocks.mx_round(values, 32, largest)
    count = differing(ours, theirs)
    report(test="kernel", format=f"MX {name}", differing=count, of=values.numel())
    assert count == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_round_like_the_kernel(values, extensions, report, bits):
    from modelopt.torch.quantization.tensor_quant import _tensor_quant

    largest = values.abs().amax(-1, keepdim=True).clamp_min(1e-3)
    kernel = extensions.get_cuda_ext(raise_if_failed=True)
    theirs = kernel.fake_tensor_quant_with_axis(values, largest.flatten(), 0, bits, *SIGNED)
    scale = largest / (2 ** (bits - 1) - 1)
    ours = (values / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    plain = _tensor_quant(values, largest, bits, *SIGNED)
    report(
        test="kernel", format=f"INT{bits}", differing=differing(ours, theirs), of=values.numel(),
        without_extension=differing(plain, theirs),
    )  # fmt: skip
    assert differing(plain, theirs) == 0
    assert differing(ours, theirs) <= TIES * values.numel()


@pytest.mark.parametrize("name", ["NVFP4", "MXFP8", "MXFP4"])
def test_what_modelopt_packs_on_the_gpu_is_unpacked_alike(values, report, name):
    from modelopt.torch.quantization import qtensor

    if name == "NVFP4":
        packed, scale, unit = qtensor.NVFP4QTensor.quantize(values, 16)
        theirs = packed.dequantize(
            dtype=torch.float32, scale=scale, double_scale=unit, block_sizes={-1: 16}
        )
        codes = blocks.e2m1_by_column(packed._quantized_data)
        ours = blocks.per_block(codes, scale.float(), 16) * unit
    else:
        kind = getattr(qtensor, f"{name}QTensor")
        packed, scale = kind.quantize(values) if name == "MXFP8" else kind.quantize(values, 32)
        theirs = packed.dequantize(dtype=torch.float32, scale=scale, block_sizes={-1: 32})
        data = packed._quantized_data
        codes = blocks.e2m1_by_column(data) if name == "MXFP4" else data.float()
        exponents = scale.reshape(*values.shape[:-1], -1)
        ours = blocks.per_block(codes.view(values.shape), blocks.power_of_two(exponents), 32)
    count = differing(ours, theirs)
    report(test="unpack", format=name, differing=count, of=values.numel())
    assert count == 0


@pytest.mark.parametrize("name", ["NVFP4", "MXFP8", "MXFP4"])
def test_modelopt_packs_the_same_codes_on_gpu_and_cpu(values, report, name):
    from modelopt.torch.quantization import qtensor

    kind = getattr(qtensor, f"{name}QTensor")
    block = {"NVFP4": (16,), "MXFP8": (), "MXFP4": (32,)}[name]
    gpu, cpu = (kind.quantize(where, *block) for where in (values, values.cpu()))
    pairs = [(gpu[0]._quantized_data, cpu[0]._quantized_data), *zip(gpu[1:], cpu[1:], strict=True)]
    count = sum(int((a.cpu().float() != b.float()).sum()) for a, b in pairs)
    report(test="pack on GPU and CPU", format=name, differing=count, of=values.numel())
    # ModelOpt divides by plain numbers, which CUDA turns into products by their reciprocals.
    assert count <= (5 * TIES * values.numel() if name == "NVFP4" else 0)


@pytest.mark.parametrize("round_one", [blocks.round_e4m3, blocks.round_e2m1, blocks.round_int8])
def test_rounding_is_the_same_on_gpu_and_cpu(values, report, round_one):
    wide = values * 8
    count = int((round_one(wide).cpu() != round_one(wide.cpu())).sum())
    report(test="ours on GPU and CPU", format=round_one.__name__, differing=count, of=wide.numel())
    assert count == 0
