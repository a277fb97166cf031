"""Starts a tritonserver on loopback, proves that it answers, and always ends it."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builders import process
from builders.errors import ToolError
from builders.serve import hosting, http
from builders.serve.hosting import Hosting
from builders.serve.ports import Ports
from builders.serve.shadow import shadow
from builders.serve.triton import SHARED_MEMORY, TritonRuntime

_TRIES: Final = 3
_POLL_S: Final = 0.05
_HERE: Final = Hosting()
_OURS: Final = "ignore_eos"  # an input that only our own models have
# What a healthy start on a machine without a GPU complains of.
_NOISE: Final = re.compile(r"CUDA driver version|CudaDriverHelper|CUDA memory pool")
_EMPTY: Final = re.compile(r"^([|+].*|[IWEF]\d{4} [^\]]*\] *)?$")  # tables, and their headings
_TRACE: Final = re.compile(r"(\\n)*At:\\n.*")  # a traceback in one line; the whole log has it
_BUSY: Final = re.compile(r"already in use", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonServer:
    """A server that answered: where it listens and what it serves.

    ``model`` is the one that takes ``text_input``: the ensemble where there are several.
    """

    host: str
    ports: Ports
    models: tuple[str, ...]
    model: str
    version: str
    log: Path
    child: subprocess.Popen[bytes] = field(repr=False)
    workers: frozenset[int] = field(repr=False)

    @property
    def http_url(self) -> str:
        """Where it speaks HTTP."""
        return f"http://{self.host}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """Where it speaks gRPC, as gRPC's clients want it."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Where it tells its metrics."""
        return f"http://{self.host}:{self.ports.metrics}/metrics"

    def alive(self) -> bool:
        """Whether the server runs and every model process of its start still does.

        Triton calls itself ready after a model's process died (server issue 8604), so look here.
        """
        return self.child.poll() is None and self.workers <= _children(self.child.pid)

    def obituary(self) -> str:
        """Return why the server died and the last lines of its log; nothing while it lives."""
        if self.alive():
            return ""
        code = self.child.poll()
        how = "lost a model process" if code is None else f"ended with {code}"
        return f"tritonserver {how}; its log {self.log} ends:\n{last_words(self.log)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launch:
    """What one server is started with, but for its ports."""

    hosting: Hosting
    runtime: TritonRuntime
    source: Path
    repository: Path
    backends: Path
    models: tuple[str, ...]
    log: Path
    until: float
    secret: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def regions(self) -> str:
        """The prefix of its shared memory, which no other server has; names whose it is."""
        return f"enginesmith_{os.getpid()}_{self.secret[:8]}_"

    def argv(self, ports: Ports) -> tuple[str, ...]:
        """Return the command line."""
        start = hosting.Start(
            binary=self.runtime.binary,
            repository=self.repository,
            backends=self.backends,
            regions=self.regions,
            secret=self.secret,
        )
        return hosting.argv(start, self.hosting, ports)


@contextmanager
def tritonserver(
    repository: Path,
    *,
    log: Path,
    http_port: int = 0,
    grpc_port: int = 0,
    deadline: float = 180.0,
    how: Hosting = _HERE,
) -> Iterator[TritonServer]:
    """Serve a model repository while the block runs; its bytes are not touched.

    Enters when a real request was answered. A server that cannot start, dies or takes more than
    ``deadline`` seconds is a `ToolError` with the last lines of its log. Call it from the thread
    that outlives the server: Linux ends the server together with the thread that started it.
    """
    asked = Ports(http=http_port, grpc=grpc_port)
    runtime = how.located()
    with tempfile.TemporaryDirectory(prefix="enginesmith-triton-") as home:
        launch = _Launch(
            hosting=how,
            runtime=runtime,
            source=repository,
            models=shadow(repository, Path(home, "repository")),
            repository=Path(home, "repository"),
            backends=runtime.lay_out(Path(home, "backends")),
            log=log,
            until=time.monotonic() + deadline,
        )
        with _running(launch, asked) as server:
            yield server


@contextmanager
def _running(launch: _Launch, asked: Ports) -> Iterator[TritonServer]:
    server = _start(launch, asked)
    try:
        yield server
    finally:
        _end(server.child, launch)


def _start(launch: _Launch, asked: Ports) -> TritonServer:
    """Start the server; where another program was faster to take a free port, start it again."""
    for attempt in range(1, _TRIES + 1):
        ports = asked.free()
        env = hosting.environment(launch.runtime.environment(os.environ))
        try:
            child = process.start(
                launch.argv(ports), log=launch.log, env=env, folder=launch.repository
            )
        except OSError as error:
            raise ToolError(f"{launch.runtime.binary}: {error.strerror}") from error
        try:
            return _proved(child, launch, ports)
        except BaseException as error:
            _end(child, launch)
            lost = isinstance(error, ToolError) and _BUSY.search(process.tail(launch.log))
            if not lost or asked.chosen or attempt == _TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def _proved(child: subprocess.Popen[bytes], launch: _Launch, ports: Ports) -> TritonServer:
    """Wait until the server is ready and has answered one real request."""
    host = launch.hosting.reached
    url = f"http://{host}:{ports.http}"
    while not http.ready(url):
        if child.poll() is not None:
            raise _failed(f"tritonserver ended with {child.returncode} while starting", launch)
        if time.monotonic() > launch.until:
            raise _failed("tritonserver is not ready within its deadline", launch)
        time.sleep(_POLL_S)
    try:
        model = _speaker(url, launch.models)
        left = max(launch.until - time.monotonic(), 1.0)
        http.generate(url, model, "Hello", timeout=left, **_short(http.inputs(url, model)))
    except ToolError as error:
        raise _failed(f"tritonserver is ready but does not answer: {error}", launch) from error
    return TritonServer(
        host=host,
        ports=ports,
        models=launch.models,
        model=model,
        version=http.version(url),
        log=launch.log,
        child=child,
        workers=_children(child.pid),
    )


def _speaker(url: str, models: tuple[str, ...]) -> str:
    """Return the model to talk to: one of ours, else the one that takes text, ensembles first."""
    inputs = {name: http.inputs(url, name) for name in models}
    speaking = [name for name in models if "text_input" in inputs[name]]
    if not speaking:
        raise ToolError(f"none of its models takes text_input: {', '.join(models)}")
    ours = [name for name in speaking if _OURS in inputs[name]]
    return next(iter(ours), "ensemble" if "ensemble" in speaking else speaking[0])


def _short(inputs: tuple[str, ...]) -> dict[str, object]:
    """Return what asks a model for one token, by the name that it knows."""
    if "max_tokens" in inputs:
        return {"max_tokens": 1}
    return {"sampling_parameters": '{"max_tokens": 1}'} if "sampling_parameters" in inputs else {}


def _end(child: subprocess.Popen[bytes], launch: _Launch) -> None:
    """Ask the server itself to end, so that its models can finish; then make sure of all of it."""
    ranks = _children(child.pid) if launch.hosting.ranks > 1 else frozenset()
    try:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(hosting.EXIT_S + 5)
    finally:  # a second Ctrl-C ends the waiting, not the server's end
        process.stop(child, grace=0)
        for rank in ranks:  # mpirun gives each its own process group
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        for region in SHARED_MEMORY.glob(f"{launch.regions}*"):
            region.unlink(missing_ok=True)


def _failed(what: str, launch: _Launch) -> ToolError:
    said = last_words(launch.log).replace(str(launch.repository), str(launch.source))
    return ToolError(f"{what}:\n{said}", hint=f"the whole log: {launch.log}")


def last_words(log: Path, lines: int = 15) -> str:
    """Return the errors and the last lines of a Triton log, without its tables."""
    said = (_TRACE.sub("", line.strip("\0")) for line in process.tail(log, 1000).splitlines())
    plain = [line for line in said if not _EMPTY.match(line) and not _NOISE.search(line)]
    errors = [line for line in plain[:-lines] if line.startswith("E")]
    return "\n".join(errors[:3] + plain[-lines:])


def _children(pid: int) -> frozenset[int]:
    """Return the living child processes of a process."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.add(int(stat.parent.name))
    return frozenset(found)
