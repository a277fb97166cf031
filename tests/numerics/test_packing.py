"""Packed weights are ModelOpt's byte for byte (see test_stream.py); here is what they mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.numerics import blocks, packing

WAYS = {
    "fp8_rows": packing.fp8_rows,
    "mxfp8": packing.mxfp8,
    "mxfp4": packing.mxfp4,
    "nvfp4": lambda weight: packing.nvfp4(weight, weight.abs().amax()),
    "int4": packing.int4_groups,
}


def weights(seed, rows=64, columns=256):
    made = torch.Generator().manual_seed(seed)
    wide = torch.exp(torch.randn((rows, 1), generator=made))
    return (torch.randn((rows, columns), generator=made) * wide).bfloat16()


def read(name, parts):
    codes, scale = parts["weight"], parts["weight_scale"]
    if name == "fp8_rows":
        return codes.float() * scale[:, None]
    if name == "mxfp8":
        return blocks.per_block(codes.float(), blocks.power_of_two(scale), 32)
    if name == "mxfp4":
        return blocks.per_block(blocks.e2m1_by_column(codes), blocks.power_of_two(scale), 32)
    if name == "nvfp4":
        unit = parts["weight_scale_2"]
        return blocks.per_block(blocks.e2m1_by_column(codes), scale.float(), 16) * unit
    return blocks.per_block(blocks.int4_by_row(codes), scale, 128)


# Half a step at the largest value of a group, of its largest value; FP8's steps are relative.
HALF_A_STEP = {"fp8_rows": 1 / 28, "mxfp8": 1 / 14, "mxfp4": 1 / 3, "nvfp4": 0.19, "int4": 1 / 14}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(WAYS)))
def test_what_is_read_back_lies_within_half_a_step(seed, name):
    weight = weights(seed)
    found = read(name, WAYS[name](weight))
    group = {"fp8_rows": 256, "mxfp8": 32, "mxfp4": 32, "nvfp4": 16, "int4": 128}[name]
    largest = weight.float().reshape(64, -1, group).abs().amax(-1, keepdim=True)
    error = (found - weight.float()).reshape(64, -1, group).abs()
    assert bool((error <= largest * HALF_A_STEP[name] * 1.01).all())


@pytest.mark.parametrize("name", WAYS)
def test_packing_by_rows_is_packing_at_once(name, monkeypatch):
    monkeypatch.setattr(packing, "_AT_ONCE", {"cpu": 1})
    weight = weights(1, rows=300)
    largest = weight.abs().amax()
    pack = WAYS[name] if name != "nvfp4" else lambda some: packing.nvfp4(some, largest)
    whole, pieces = pack(weight), packing.by_rows(pack)(weight)
    for part, tensor in whole.items():
        assert torch.equal(tensor.float(), pieces[part].float()), part
        assert tensor.dtype == pieces[part].dtype


def test_a_tile_has_one_scale_and_a_single_tiles_is_a_number():
    parts = packing.fp8_tiles(weights(3, rows=200, columns=300))
    assert parts["weight_scale"].shape == (2, 1, 3, 1)
    scale = parts["weight_scale"].flatten(2).squeeze(1)
    back = blocks.per_tile(parts["weight"].float(), scale, 128)
    weight = weights(3, rows=200, columns=300).float()
    # E4M3 has three bits of fraction, and nothing below 2^-10 of its scale.
    allowed = weight.abs() / 16 + scale.amax() * 2**-10
    assert bool(((back - weight).abs() <= allowed * 1.01).all())
    assert packing.fp8_tiles(weights(3, rows=64, columns=64))["weight_scale"].shape == ()


def test_ties_go_to_even_in_nvfp4_and_down_in_mxfp4():
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(4).bfloat16()
    row = torch.stack([ties, -ties])
    nvfp4 = packing.nvfp4(row, torch.tensor(6.0 * 448))
    assert read("nvfp4", nvfp4)[0, :8].tolist() == [0, 1, 1, 2, 2, 4, 4, 6]
    mxfp4 = packing.mxfp4(row)
    assert read("mxfp4", mxfp4)[1, :8].abs().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_a_group_of_zeros_has_a_scale_of_zero_where_scales_are_plain_numbers():
    assert not packing.int4_groups(torch.zeros(2, 128).bfloat16())["weight_scale"].any()
    assert not packing.fp8_rows(torch.zeros(2, 128).bfloat16())["weight_scale"].any()
