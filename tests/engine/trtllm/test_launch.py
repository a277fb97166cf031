"""One process per rank, and an environment in which nothing is set behind us."""

from builders.engine.trtllm.launch import WAIT, environment, mpi_argv

ARGV = ("trtllm-build", "--checkpoint_dir", "/c")


def test_one_rank_needs_no_mpi():
    assert mpi_argv(ARGV, 1) == ARGV


def test_every_rank_gets_a_process():
    assert mpi_argv(ARGV, 4) == ("mpirun", "--allow-run-as-root", "-n", "4", *ARGV)


def test_ranks_that_are_done_wait_for_the_others():
    assert mpi_argv(ARGV, 3, {0, 2}) == (
        "mpirun", "--allow-run-as-root",
        "-n", "1", *WAIT, ":", "-n", "1", *ARGV, ":", "-n", "1", *WAIT,
    )  # fmt: skip


def test_the_environment_is_offline_and_silent():
    made = environment(
        {"PATH": "/bin", "BUILDER_FORCE_NUM_PROFILES": "1", "TLLM_LOG_LEVEL": "error"}
    )
    assert made == {
        "PATH": "/bin",
        "TRTLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
