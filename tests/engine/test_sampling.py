"""Tokens are drawn as asked: by seed, from the likeliest k, from the likeliest p."""

import pytest
import torch

from builders.engine.embedded.sampling import Chooser
from builders.engine.embedded.types import Sampling
from builders.errors import UsageError

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))


def draws(count=400, **sampling):
    chooser = Chooser(Sampling(**({"temperature": 1.0} | sampling)))
    return [chooser.choose(LOGITS) for _ in range(count)]


def test_tokens_come_as_often_as_they_are_likely():
    drawn = torch.bincount(torch.tensor(draws(4000)), minlength=4) / 4000
    assert torch.allclose(drawn, LOGITS.exp(), atol=0.03)


def test_the_same_seed_draws_the_same_and_another_does_not():
    assert draws(seed=7) == draws(seed=7)
    assert draws(seed=7) != draws(seed=8)


def test_top_k_leaves_the_likeliest_k():
    assert set(draws(top_k=2)) == {1, 3}


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.1, {1}), (0.5, {1}), (0.6, {1, 3}), (0.9, {1, 2, 3})]
)
def test_top_p_leaves_the_fewest_tokens_that_reach_it(top_p, left):
    assert set(draws(top_p=top_p)) == left


def test_a_low_temperature_takes_the_likeliest():
    assert set(draws(temperature=0.01)) == {1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
        {"top_p": 1.5}, {"top_k": -1}, {"seed": -1}, {"seed": 1 << 63}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_a_low_temperature_makes_numbers_of_large_logits(temperature):
    chooser = Chooser(Sampling(temperature=temperature))
    assert chooser.choose(torch.tensor([1e30, -torch.inf, 9e30, 0.0])) == 2


@pytest.mark.parametrize(("temperature", "greedy"), [(1e-46, True), (1e-7, True), (1e-6, False)])
def test_a_temperature_that_float32_cannot_divide_by_is_none(temperature, greedy):
    assert Chooser(Sampling(temperature=temperature)).greedy == greedy
