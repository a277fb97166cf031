"""A layer rounds, multiplies, scales and adds in the order of the hardware, whatever its width."""

import pytest
import torch
from torch.nn import functional

from builders.engine.embedded.linear import Linear, Matrix, Memory, Rounder
from builders.numerics.blocks import round_e4m3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 4, 512])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_and_wide_products_agree(rows, dtype):
    weight, values = random(96, 64), random(rows, 64, seed=1).to(dtype)
    found = Matrix(weight, dtype).times(values)
    expected = functional.linear(values.float(), weight.to(dtype).float())
    step = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
    assert (found.float() - expected).abs().max() <= step * expected.abs().max()


def test_exact_sums_are_never_rounded_to_bfloat16():
    weight, values = random(96, 64), random(512, 64, seed=1).bfloat16()
    sums = Matrix(weight, torch.bfloat16, exact_sums=True).times(values)
    assert sums.dtype == torch.float32
    assert not torch.equal(sums, sums.bfloat16().float())


def test_gain_and_bias_come_after_the_sum():
    layer = Linear(
        Matrix(torch.ones(2, 4), torch.float32), dtype=torch.float32,
        gain=torch.tensor([1.0, 10.0]), bias=torch.tensor([0.5, -0.5]),
    )  # fmt: skip
    assert layer(torch.ones(1, 3, 4)).tolist() == [[[4.5, 39.5]] * 3]


def test_a_scale_per_token_multiplies_its_row():
    rounder = Rounder(smooth=None, rounding=lambda v: (torch.ones_like(v), v[..., :1]))
    layer = Linear(Matrix(torch.ones(2, 4), torch.float32), dtype=torch.float32, rounder=rounder)
    assert layer(torch.tensor([[2.0] * 4, [3.0] * 4])).tolist() == [[8, 8], [12, 12]]


def test_smoothing_comes_before_rounding():
    rounder = Rounder(smooth=torch.tensor([2.0, 0.5]), rounding=lambda v: (v.round(), None))
    layer = Linear(Matrix(torch.eye(2), torch.float32), dtype=torch.float32, rounder=rounder)
    assert layer(torch.tensor([[0.4, 0.4]])).tolist() == [[1.0, 0.0]]


def test_layers_that_read_the_same_tensor_round_it_once():
    calls = []

    def rounding(values):
        calls.append(values)
        return round_e4m3(values), None

    memory, rounder = Memory(), Rounder(smooth=None, rounding=rounding)
    matrix = Matrix(random(8, 4), torch.float32)
    first, second = (
        Linear(matrix, dtype=torch.float32, rounder=rounder, memory=memory) for _ in range(2)
    )
    values = random(3, 4)
    assert torch.equal(first(values), second(values))
    assert len(calls) == 1
    second(values.clone())
    assert len(calls) == 2


def test_memory_lets_go_of_what_it_remembered():
    memory, rounder = Memory(), Rounder(smooth=None, rounding=lambda v: (v + 1, None))
    values = torch.zeros(1)
    first, _ = memory.round(values, rounder)
    assert memory.round(values, rounder)[0] is first
    memory.forget()
    assert memory.round(values, rounder)[0] is not first
