"""A build's log is read as it grows: how far each rank is, and which engines are whole."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.engine.trtllm.log import BuildLog

ASSET = Path(__file__).parents[2] / "assets" / "trtllm-build-tp2.log"
LINES = ASSET.read_text(encoding="utf-8").splitlines(keepends=True)
TEXT = "".join(line for line in LINES if not line.startswith("#"))


def test_the_whole_log_ends_with_every_engine():
    log = BuildLog(2)
    log.feed(TEXT)
    assert log.serialized == {0, 1}
    assert log.done == 2
    first, second = log.warnings
    assert first == "Overriding paged_state to False"
    assert second.startswith("padding removal and fMHA are both enabled")


@given(st.lists(st.integers(1, len(TEXT)), max_size=20))
def test_pieces_of_any_size_say_the_same(cuts):
    whole, pieces = BuildLog(2), BuildLog(2)
    whole.feed(TEXT)
    edges = sorted({0, *cuts, len(TEXT)})
    for begin, end in pairwise(edges):
        pieces.feed(TEXT[begin:end])
    assert (pieces.serialized, pieces.warnings, pieces.done) == (
        whole.serialized, whole.warnings, whole.done,
    )  # fmt: skip


def test_progress_never_goes_back_and_names_its_step():
    log, before, steps = BuildLog(2), 0.0, []
    for line in TEXT.splitlines(keepends=True):
        log.feed(line)
        assert log.done >= before
        before = log.done
        steps.append(log.step)
    assert list(dict.fromkeys(steps)) == [
        "start", "load TensorRT-LLM", "construct the network", "add profiles", "fill the weights",
        "choose kernels", "build the engine", "keep the timing cache", "write the engine", "finish",
    ]  # fmt: skip


@pytest.mark.parametrize("tag", ["[RANK 1] ", "[MPI_Rank 1] "])
def test_a_rank_is_known_by_its_tag(tag):
    log = BuildLog(2)
    log.feed(f"[TRT-LLM] {tag}[I] Serializing engine to /e/rank1.engine...\n")
    log.feed(f"[TRT-LLM] {tag}[I] Engine serialized. Total time: 00:00:01\n")
    assert log.serialized == {1}


def test_a_rank_is_known_by_what_mpirun_puts_before_its_lines():
    log = BuildLog(2)
    log.feed("[1,1]<stderr>:[TRT-LLM] [I] Serializing engine to /e/rank1.engine...\n")
    log.feed("[1,0]<stderr>:[TRT-LLM] [I] Serializing engine to /e/rank0.engine...\n")
    log.feed("[1,1]<stderr>:[TRT-LLM] [I] Engine serialized. Total time: 00:00:01\n")
    assert log.serialized == {1}


def test_an_engine_that_was_only_begun_is_not_whole():
    log = BuildLog(1)
    log.feed("[TRT-LLM] [I] Serializing engine to /e/rank0.engine...\n")
    assert log.serialized == set()
    log.again()
    log.feed("[TRT-LLM] [I] Engine serialized. Total time: 00:00:01\n")
    assert log.serialized == set()


def test_two_untagged_engines_on_their_way_prove_nothing_about_either():
    log = BuildLog(2)
    for rank in (0, 1):
        log.feed(f"[TRT-LLM] [I] Serializing engine to /e/rank{rank}.engine...\n")
    log.feed("[TRT-LLM] [I] Engine serialized. Total time: 00:00:01\n")
    assert log.serialized == set()


def test_an_engine_that_is_written_anew_is_not_whole_until_it_is():
    log = BuildLog(1)
    log.feed(
        "[TRT-LLM] [I] Serializing engine to /e/rank0.engine...\n"
        "[TRT-LLM] [I] Engine serialized. Total time: 00:00:01\n"
        "[TRT-LLM] [I] Serializing engine to /e/rank0.engine...\n"
    )
    assert log.serialized == set()


def test_a_log_that_says_nothing_known_makes_no_progress():
    log = BuildLog(1)
    log.feed("hello\n\n[TRT] [I] something new\n" * 3)
    assert (log.done, log.step) == (0, "start")
