"""Each algorithm's tensors are read as ModelOpt packed them; small layers computed by hand."""

import pytest
import torch

from builders.autopsy.modelopt import ALGORITHMS
from builders.numerics.readers import READERS


def decoded(algorithm, group, **parts):
    found = READERS[algorithm].decode(parts, group)
    gain = found.gain if found.gain.ndim == 0 else found.gain[:, None]
    return found.matrix * gain


def scalar(value):
    return torch.tensor(float(value))


def test_the_embedded_runtime_is_named_for_what_has_a_reader():
    named = {name for name, stored in ALGORITHMS.items() if "embedded" in stored.runtimes}
    assert READERS.keys() == named


def test_rounding_is_there_where_a_format_has_an_input_scale():
    for algorithm, reader in READERS.items():
        parts = ALGORITHMS[algorithm].parts
        assert not ("input_scale" in parts and reader.rounding is None)


def test_fp8_is_code_times_both_scales():
    weight = torch.tensor([[1.0, -448.0]]).to(torch.float8_e4m3fn)
    found = decoded("FP8", 0, weight=weight, weight_scale=scalar(0.5), input_scale=scalar(2))
    assert found.tolist() == [[1.0, -448.0]]


def test_int8_has_a_scale_a_row():
    weight = torch.tensor([[1, -128], [3, 127]], dtype=torch.int8)
    scales = torch.tensor([0.5, 2.0])
    assert decoded("W8A16", 0, weight=weight, weight_scale=scales).tolist() == [
        [0.5, -64.0],
        [6.0, 254.0],
    ]


def test_int4_groups_run_along_the_row():
    weight = torch.tensor([[0x21, 0x43]], dtype=torch.uint8)
    scales = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    found = decoded("W4A16_AWQ", 1, weight=weight, weight_scale=scales)
    assert found.tolist() == [[1.0, 30.0], [200.0, 4000.0]]


def test_w4a8_rounds_its_widened_weight_to_fp8():
    """7 × 1.1 in units of 0.1 is 77: between the E4M3 neighbours 72 and 80, nearer to 80."""
    weight = torch.tensor([[0x07]], dtype=torch.uint8)
    found = decoded(
        "W4A8_AWQ", 1, weight=weight, weight_scale=torch.tensor([[1.1], [1.1]]),
        weight_scale_2=scalar(0.1), input_scale=scalar(1),
    )  # fmt: skip
    assert found[0, 0].item() == pytest.approx(8.0)


def test_fp8_tiles_are_128_wide_and_high():
    weight = torch.ones(130, 129).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 1, 2, 1)
    found = decoded("fp8_pb_wo", 128, weight=weight, weight_scale=scales)
    assert [found[0, 0], found[127, 128], found[128, 0], found[129, 128]] == [1, 2, 3, 4]


def test_a_single_fp8_tile_has_a_number_for_a_scale():
    weight = torch.ones(16, 128).to(torch.float8_e4m3fn)
    found = decoded("fp8_pb_wo", 128, weight=weight, weight_scale=scalar(3))
    assert found.unique().tolist() == [3.0]


def test_mxfp8_blocks_scale_by_powers_of_two():
    weight = torch.ones(1, 64).to(torch.float8_e4m3fn)
    scales = torch.tensor([[126, 129]], dtype=torch.uint8)
    found = decoded("MXFP8", 32, weight=weight, weight_scale=scales)
    assert found[0, [0, 31, 32, 63]].tolist() == [0.5, 0.5, 4.0, 4.0]


def test_nvfp4_is_code_times_block_scale_times_tensor_scale():
    weight = torch.full((1, 8), 0x21, dtype=torch.uint8)
    found = decoded(
        "W4A16_NVFP4", 16, weight=weight, weight_scale_2=scalar(0.25),
        weight_scale=torch.tensor([[8.0]]).to(torch.float8_e4m3fn),
    )  # fmt: skip
    assert found[0, :2].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("algorithm", ["MXFP8", "mxfp4", "NVFP4", "FP8", "W8A8_SQ_PER_CHANNEL"])
def test_matrices_of_rounded_products_fit_bfloat16_exactly(algorithm):
    random = torch.Generator().manual_seed(1)
    kinds = {
        "FP8": lambda: torch.randn(4, 64, generator=random).to(torch.float8_e4m3fn),
        "MXFP8": lambda: torch.randn(4, 64, generator=random).to(torch.float8_e4m3fn),
        "W8A8_SQ_PER_CHANNEL": lambda: torch.randint(-128, 128, (4, 64), dtype=torch.int8),
    }
    packed = torch.randint(0, 256, (4, 32), dtype=torch.uint8, generator=random)
    scales = {
        "MXFP8": torch.randint(100, 140, (4, 2), dtype=torch.uint8, generator=random),
        "mxfp4": torch.randint(100, 140, (4, 2), dtype=torch.uint8, generator=random),
        "NVFP4": torch.rand(4, 4, generator=random).mul(448).to(torch.float8_e4m3fn),
    }
    parts = {
        "weight": kinds.get(algorithm, lambda: packed)(),
        "weight_scale": scales.get(algorithm, torch.rand(4, generator=random)),
        "weight_scale_2": scalar(0.3),
        "input_scale": scalar(0.7),
    }
    matrix = READERS[algorithm].decode(parts, ALGORITHMS[algorithm].group).matrix
    assert torch.equal(matrix.bfloat16().float(), matrix)


def test_tokens_are_scaled_one_by_one():
    rounding = READERS["FP8_PER_CHANNEL_PER_TOKEN"].rounding({}, 0)
    codes, scale = rounding(torch.tensor([[448.0, 1.0], [4.48, 4.48]]))
    assert codes.tolist() == [[448.0, 1.0], [448.0, 448.0]]
    assert torch.allclose(scale, torch.tensor([[1.0], [0.01]]))
