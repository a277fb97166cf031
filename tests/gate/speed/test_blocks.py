"""What a block says in one number: tokens are counted, not pieces, and waiting starts when due."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.gate.speed.blocks import Block, Timing, quantile, supported


def timing(*arrivals, intended=0.0, sent=0.0):
    return Timing(intended=intended, sent=sent, arrivals=arrivals, finish="length")


def block(*timings):
    return Block(pair=1, side="baseline", requests=timings)


def test_a_piece_of_several_tokens_is_as_many_equal_gaps():
    pieces = timing((0.1, 1), (0.2, 1), (0.5, 3))
    assert pieces.gaps == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert pieces.tokens == 5


def test_tokens_of_the_first_piece_have_no_gap():
    assert timing((0.1, 4)).gaps == []
    assert timing((0.1, 4), (0.2, 2)).gaps == pytest.approx([0.05, 0.05])


def test_the_same_tokens_in_other_pieces_have_the_same_rate():
    single = timing(*[(0.1 + 0.01 * place, 1) for place in range(21)])
    paired = timing((0.1, 1), *[(0.1 + 0.01 * place, 2) for place in range(2, 21, 2)])
    assert single.itl == pytest.approx(paired.itl) == pytest.approx(0.01)
    assert len(single.gaps) == len(paired.gaps)


def test_pieces_that_arrive_in_bundles_do_not_change_the_inter_token_latency():
    steady = timing(*[(0.1 + 0.01 * place, 1) for place in range(21)])
    bundled = timing((0.1, 1), *[(0.1 + 0.04 * (1 + place // 4), 1) for place in range(20)])
    assert bundled.itl == pytest.approx(steady.itl) == pytest.approx(0.01)
    assert quantile(bundled.gaps, 0.5) == 0.0


def test_an_answer_in_one_piece_has_no_inter_token_latency():
    assert math.isnan(timing((0.1, 5)).itl)


def test_the_first_token_is_waited_for_from_when_it_was_due():
    assert timing((5.2, 1), intended=1.0, sent=5.0).ttft == pytest.approx(4.2)


def test_the_rate_of_a_block_is_all_tokens_over_all_its_time():
    made = block(timing((1.0, 1), (2.0, 1)), timing((2.0, 1), (4.0, 1), sent=1.0, intended=1.0))
    assert made.seconds_per_token == pytest.approx(1.0)
    assert made.requests[0].tokens_per_second == pytest.approx(1.0)


def test_evidence_holds_a_block_to_the_microsecond():
    made = Block(
        pair=3,
        side="candidate",
        requests=(timing((0.1234567, 1), (0.25, 2), intended=0.1, sent=0.100001),),
        lags=(0.0001234,),
    )
    read = Block.from_json(json.loads(json.dumps(made.as_json())))
    assert read.requests[0].arrivals == ((0.123457, 1), (0.25, 2))
    assert (read.pair, read.side, read.lags) == (3, "candidate", (0.000123,))
    assert Block.from_json(read.as_json()) == read
    assert made.as_json()["unit"] == "pair-3/candidate"


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_agrees_with_numpy(values, share):
    numpy = pytest.importorskip("numpy")
    assert quantile(values, share) == pytest.approx(float(numpy.quantile(values, share)), abs=1e-6)


def test_a_tail_is_supported_once_enough_values_can_bound_it():
    for share, least in ((0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)):
        assert supported(least, share)
        assert not supported(least - 1, share)
