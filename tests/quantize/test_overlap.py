"""A thread is a piece ahead, another a piece behind; order and errors are as without them."""

import threading

import pytest

from builders.quantize.overlap import Behind, prepared


def test_items_come_in_order_with_what_was_made():
    assert list(prepared(range(5), lambda n: n * n)) == [(n, n * n) for n in range(5)]
    assert list(prepared([], str)) == []


def test_the_next_piece_is_made_while_one_is_worked_on():
    second = threading.Event()

    def make(n):
        if n == 1:
            second.set()
        return n

    for item, _ in prepared(range(2), make):
        if item == 0:
            assert second.wait(10)


def test_no_more_than_one_piece_is_ahead():
    made = []
    pieces = prepared(range(9), made.append)
    next(pieces)
    pieces.close()
    assert len(made) <= 2


def test_an_error_in_making_comes_where_the_piece_would():
    def make(n):
        return 1 // (2 - n)

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(item for item, _ in prepared(range(5), make))
    pieces = prepared(range(5), make)
    assert [next(pieces)[0], next(pieces)[0]] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(pieces)


def test_work_behind_is_done_in_order_and_all_at_the_end():
    done = []
    with Behind() as behind:
        for n in range(5):
            behind.do(done.append, n)
    assert done == [0, 1, 2, 3, 4]


def test_work_behind_leaves_the_caller_free():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(10)

    with Behind() as behind:
        behind.do(work)
        assert begun.wait(10)
        go_on.set()


def test_an_error_behind_is_raised_at_the_next_piece_or_at_the_end():
    with Behind() as behind:
        behind.do(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            behind.do(print)
    with pytest.raises(ZeroDivisionError), Behind() as behind:
        behind.do(lambda: 1 // 0)


def test_the_callers_own_error_is_the_one_that_is_told():
    def work():
        with Behind() as behind:
            behind.do(lambda: 1 // 0)
            raise KeyError

    with pytest.raises(KeyError):
        work()
