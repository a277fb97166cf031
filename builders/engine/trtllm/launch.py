"""One process per rank: the command line that starts a build, and its environment. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

# Inside NVIDIA's images the user is root, whom Open MPI refuses otherwise.
_MPIRUN: Final = ("mpirun", "--allow-run-as-root")
# trtllm-build gives rank N of the engine to process N of MPI and knows no way to leave one out. A
# rank whose engine is done sends this instead: it imports what trtllm-build imports and meets it at
# its only barrier (parallel_build in commands/build.py@65f1d153, mpi_barrier in _utils.py
# @000a01de). Measured with Open MPI 4.1.6 and mpi4py around a stand-in, not with TensorRT-LLM.
WAIT: Final = ("python3", "-c", "from tensorrt_llm._utils import mpi_barrier; mpi_barrier()")
# Each would change the build behind the command line's back.
_REMOVED: Final = (
    "BUILDER_FORCE_NUM_PROFILES",  # overrides the number of optimization profiles
    "TLLM_LOG_LEVEL",  # --log_level is discarded when it is set
    "TLLM_LOG_FIRST_RANK_ONLY",
    "TRTLLM_USAGE_FORCE_ENABLED",
)
# Nothing leaves the machine. TensorRT-LLM reads the first variable in every version that has usage
# statistics (tensorrt_llm/usage/usage_lib.py) and others ignore it.
_SET: Final = {
    "TRTLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def mpi_argv(argv: Sequence[str], world: int, done: Collection[int] = ()) -> tuple[str, ...]:
    """Return the command line that builds every rank that is not done yet."""
    if world == 1:
        return tuple(argv)
    if not done:
        return (*_MPIRUN, "-n", str(world), *argv)
    words = list(_MPIRUN)
    for rank in range(world):
        words += [":"] if rank else []
        words += ["-n", "1", *(WAIT if rank in done else argv)]
    return tuple(words)


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for TensorRT-LLM's programs: offline, and nothing set behind us."""
    kept = {name: value for name, value in own.items() if name not in _REMOVED}
    return kept | _SET
