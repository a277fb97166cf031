"""How a tritonserver is started: its command line, one process a rank, its environment. Pure.

The ranks of a compiled engine are processes of one mpirun: the first serves, the others load the
engine and work for it. The LLM API starts its own ranks, so it has one process here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from builders.errors import ToolError, UsageError
from builders.serve.ports import HOST, Ports
from builders.serve.triton import TritonRuntime

EXIT_S: Final = 10  # how long the server waits for requests in flight when it is told to end
_ADMIN: Final = "shared-memory,model-repository,trace,logging"
# Inside NVIDIA's images the user may be root, whom Open MPI refuses otherwise.
_MPIRUN: Final = ("mpirun", "--allow-run-as-root")
# Nothing is fetched and nothing is told while a release is served.
_SET: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRTLLM_NO_USAGE_STATS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
# TensorRT-LLM checks messages between its processes by assertions, which this turns off.
_REMOVED: Final = frozenset({"PYTHONOPTIMIZE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """Where and how a repository is served; by default here, in one process, on loopback.

    ``ranks`` is the number of processes of a compiled engine and ``engine`` its model, which all
    ranks load. ``runtime`` None takes the tritonserver that is found on this machine.
    """

    runtime: TritonRuntime | None = None
    ranks: int = 1
    engine: str = "tensorrt_llm"
    host: str = HOST
    auto_complete: bool = False

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise UsageError(f"a server has at least one rank, not {self.ranks}")
        try:
            ip_address(self.host)
        except ValueError:
            raise UsageError(
                f"{self.host!r} is no IP address", hint="127.0.0.1, or 0.0.0.0"
            ) from None

    @property
    def reached(self) -> str:
        """The address at which this machine itself reaches the server."""
        return HOST if ip_address(self.host).is_unspecified else self.host

    def located(self) -> TritonRuntime:
        """Return the tritonserver; what keeps it from being started is a `ToolError`."""
        found = self.runtime or TritonRuntime.locate()
        if found.bundled and not ip_address(self.host).is_loopback:
            raise ToolError(
                f"the Triton of nvidia-pytriton has known flaws and does not listen on {self.host}",
                hint="serve it on 127.0.0.1, or work in a current Triton image of NVIDIA",
            )
        found.preflight()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a server is started with: files, the prefix of its shared memory, the admin's key."""

    binary: Path
    repository: Path
    backends: Path
    regions: str
    secret: str = field(repr=False)


def argv(start: Start, hosting: Hosting, ports: Ports) -> tuple[str, ...]:
    """Return the command line."""
    leader = (*_common(start, hosting, start.regions), *_leader(start, hosting, ports))
    if hosting.ranks == 1:
        return leader
    words = [*_MPIRUN, "-n", "1", *leader]
    for rank in range(1, hosting.ranks):
        follower = _common(start, hosting, f"{start.regions}{rank}_")
        words += [":", "-n", "1", *follower, *_follower(hosting)]
    return tuple(words)


def _common(start: Start, hosting: Hosting, regions: str) -> tuple[str, ...]:
    complete = () if hosting.auto_complete else ("--disable-auto-complete-config",)
    return (
        str(start.binary),
        f"--model-repository={start.repository}",
        f"--backend-directory={start.backends}",
        f"--backend-config=python,shm-region-prefix-name={regions}",
        *complete,
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={EXIT_S}",
    )


def _leader(start: Start, hosting: Hosting, ports: Ports) -> tuple[str, ...]:
    """Without an address Triton listens on every interface; metrics stay on loopback."""
    return (
        "--model-control-mode=none",
        f"--http-address={hosting.host}",
        f"--http-port={ports.http}",
        f"--grpc-address={hosting.host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={HOST}",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={_ADMIN}:admin={start.secret}",
        f"--grpc-restricted-protocol={_ADMIN}:admin={start.secret}",
    )


def _follower(hosting: Hosting) -> tuple[str, ...]:
    """A rank that works for the first one listens nowhere and loads the engine only."""
    return (
        "--model-control-mode=explicit",
        f"--load-model={hosting.engine}",
        "--allow-http=false",
        "--allow-grpc=false",
        "--allow-metrics=false",
    )


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server that is offline."""
    return {key: value for key, value in env.items() if key not in _REMOVED} | _SET
