"""Divergence from a few likely tokens is a lower bound of the true one, and tells where it lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.gate.scoring import divergence


def row(logits, top):
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1)[:, :top]
    return divergence.pack(order.tolist(), np.take_along_axis(logprobs, order, -1).tolist())


def pair(ours, theirs, top):
    return {"top": row(ours, top)}, {"top": row(theirs, top)}


def exact(ours, theirs):
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (ours, theirs))
    return float((p * np.log(p / q)).sum(-1).mean())


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 2), st.integers(1, 32))
@settings(max_examples=60, deadline=None)
def test_it_never_exceeds_the_true_divergence_and_all_tokens_give_it_exactly(seed, noise, top):
    chance = np.random.default_rng(seed)
    ours = chance.normal(0, 2, (12, 32))
    theirs = ours + chance.normal(0, noise, ours.shape)
    truth = exact(ours, theirs)
    found = divergence.between([pair(ours, theirs, top)])
    assert -1e-9 <= found.nats <= truth + 1e-6
    assert divergence.between([pair(ours, theirs, 32)]).nats == pytest.approx(truth, abs=1e-6)


def test_sixteen_of_four_thousand_tokens_hold_most_of_a_sharp_models_divergence():
    chance = np.random.default_rng(1)
    ours = chance.normal(0, 4, (20, 4096))
    theirs = ours + chance.normal(0, 0.3, ours.shape)
    assert divergence.between([pair(ours, theirs, 16)]).nats > 0.6 * exact(ours, theirs)


def test_first_choices_that_changed_are_counted():
    ours = np.eye(4) * 5
    theirs = ours[[0, 1, 3, 2]]
    assert divergence.between([pair(ours, theirs, 3)]).flips == 0.5


def test_it_is_told_by_stretches_of_the_row():
    ours = np.zeros((64, 8)) + np.arange(8)
    theirs = ours + np.where(np.arange(64)[:, None] < 32, 0.0, np.arange(8)[::-1])
    found = divergence.between([pair(ours, theirs, 8)])
    assert len(found.by_position) == divergence.PARTS
    assert [place for place, _ in found.by_position[:3]] == [0, 2, 4]
    assert all(nats < 1e-9 for place, nats in found.by_position if place < 32)
    assert all(nats > 0.1 for place, nats in found.by_position if place >= 32)


def test_nothing_kept_is_nothing_said():
    assert divergence.between([({"top": None}, {}), ({}, {})]) is None
    assert divergence.between([]) is None
