"""Rounding to narrow numbers: held against torch, hand-computed blocks, and every code there is."""

import pytest
import torch

from builders.numerics import blocks


def all_bfloat16():
    values = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).float()
    return values[torch.isfinite(values)]


def e4m3_codes():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return codes[torch.isfinite(codes)].sort().values


def midpoints(codes):
    middle = (codes[1:] + codes[:-1]) / 2
    far = torch.full_like(middle, 1e9)
    return torch.cat([middle, torch.nextafter(middle, far), torch.nextafter(middle, -far)])


def test_adding_rounds_to_e4m3_as_torch_converts():
    values = torch.cat([all_bfloat16(), e4m3_codes(), midpoints(e4m3_codes())])
    assert len(values) > 2048  # from there on it adds
    expected = values.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    assert torch.equal(blocks.round_e4m3(values), expected)


def test_few_values_round_like_many():
    values = midpoints(e4m3_codes())
    few = torch.cat([blocks.round_e4m3(part) for part in values.split(100)])
    assert torch.equal(few, blocks.round_e4m3(values.repeat(8))[: len(values)])


@pytest.mark.parametrize("count", [1, 4096])
def test_e4m3_keeps_nan_and_its_input(count):
    values = torch.full((count,), torch.nan)
    values[0] = 1e6
    before = values.clone()
    assert blocks.round_e4m3(values)[0] == 448
    assert torch.equal(values[:1], before[:1])
    assert torch.isnan(blocks.round_e4m3(values)[1:]).all()


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0.25, 0.0), (0.26, 0.5), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0),
        (5.0, 4.0), (5.1, 6.0), (6.0, 6.0), (99.0, 6.0), (-0.75, -1.0), (-5.0, -4.0),
    ],
)  # fmt: skip
def test_e2m1_ties_go_to_the_even_code(value, rounded):
    assert blocks.round_e2m1(torch.tensor([value])).item() == rounded


def test_int8_saturates_at_both_ends_and_rounds_ties_to_even():
    values = torch.tensor([-200.0, -128.4, -0.5, 0.5, 1.5, 126.6, 200.0])
    assert blocks.round_int8(values).tolist() == [-128, -128, 0, 0, 2, 127, 127]


def test_e2m1_unpacks_the_even_column_from_the_low_nibble():
    packed = torch.tensor([[0x71, 0xF8]], dtype=torch.uint8)
    assert blocks.e2m1_by_column(packed).tolist() == [[0.5, 6.0, -0.0, -6.0]]


def test_int4_unpacks_the_even_row_from_the_low_nibble():
    packed = torch.tensor([[0x71, 0x8F], [0x0E, 0x23]], dtype=torch.uint8)
    assert blocks.int4_by_row(packed).tolist() == [[1, -1], [7, -8], [-2, 3], [0, 2]]


def test_e8m0_bytes_are_powers_of_two_from_end_to_end():
    found = blocks.power_of_two(torch.tensor([0, 1, 126, 127, 128, 254], dtype=torch.uint8))
    assert found.tolist() == [2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127]
    assert torch.isnan(blocks.power_of_two(torch.tensor([255], dtype=torch.uint8)))


def test_a_block_shares_a_scale_and_a_tile_shares_one_in_both_directions():
    ones = torch.ones(3, 4)
    assert blocks.per_block(ones, torch.tensor([[1.0, 2.0]] * 3), 2)[0].tolist() == [1, 1, 2, 2]
    tiled = blocks.per_tile(ones, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2)
    assert tiled.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]


def test_mx_takes_the_smallest_power_of_two_that_fits():
    block = torch.zeros(1, 32)
    block[0, 0], block[0, 1] = 449.0, 1.0  # does not fit scale 1, so scale 2: 224.5 rounds to 224
    assert blocks.mx_round(block, 32, 448.0)[0, :2].tolist() == [448.0, 1.0]
    block[0, 0] = 448.0
    assert blocks.mx_round(block, 32, 448.0)[0, 0].item() == 448.0


def test_an_nvfp4_block_by_hand():
    """Largest 6, unit 1/64: the scale is 64, in E4M3 exact, so codes count whole numbers."""
    block = torch.tensor([[6.0, 5.1, -2.5, 0.3, *[0.0] * 12]])
    rounded = blocks.nvfp4_round(block, 16, torch.tensor(1 / 64))
    assert (rounded / 64)[0, :4].tolist() == [6.0, 6.0, -2.0, 0.5]


@pytest.mark.parametrize("rounding", [
    lambda zeros: blocks.mx_round(zeros, 32, 448.0),
    lambda zeros: blocks.mx_round(zeros, 32, 6.0),
    lambda zeros: blocks.nvfp4_round(zeros, 16, torch.tensor(0.1)),
    lambda zeros: blocks.round_e4m3(zeros / blocks.token_scale(zeros)),
])  # fmt: skip
def test_zeros_stay_zeros(rounding):
    assert torch.equal(rounding(torch.zeros(2, 64)), torch.zeros(2, 64))


def test_what_rounding_returns_fits_bfloat16_exactly():
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 37
    for rounded in (
        blocks.round_e4m3(values),
        blocks.round_int8(values),
        blocks.mx_round(values, 32, 448.0),
        blocks.mx_round(values, 32, 6.0),
        blocks.nvfp4_round(values, 16, torch.tensor(0.037)),
    ):
        assert torch.equal(rounded.bfloat16().float(), rounded)
