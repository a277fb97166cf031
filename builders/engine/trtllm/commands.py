"""Command lines of trtllm-serve, trtllm-bench and trtllm-eval, for one version. Pure.

Which of YAML and command line wins has changed between versions, so everything that the YAML can
say is said there and nowhere else. Options are spelled as every version read spells them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.engine.trtllm.settings import name, path
from builders.engine.trtllm.validate import validate_argv
from builders.errors import PlanError, UsageError

YAML: Final = "--extra_llm_api_options"
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:]{2,39}")
_KINDS: Final = ("throughput", "latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What a program is pointed at: a checkpoint with its YAML, or a compiled engine.

    A compiled engine has no YAML and needs the tokenizer's directory.
    """

    model: Path
    config: Path | None = None
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        if (self.config is None) == (self.tokenizer is None):
            raise UsageError(
                "a checkpoint needs its YAML, a compiled engine its tokenizer",
                hint="name one of the two",
            )

    @property
    def compiled(self) -> bool:
        """Whether this is a compiled engine."""
        return self.config is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of trtllm-bench: what is measured, on which prompts, and where the report goes."""

    kind: str
    model_name: str
    dataset: Path
    report: Path
    requests: int
    concurrency: int = 1
    warmup: int = 2
    streaming: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UsageError(f"trtllm-bench measures {' or '.join(_KINDS)}, not {self.kind!r}")
        if min(self.requests, self.concurrency) < 1 or self.warmup < 0:
            raise UsageError(
                "a benchmark needs a request at least, and a concurrency of 1 at least",
                hint="mend [bench]",
            )


def serve_argv(
    version: str, deployed: Deployed, *, host: str = "127.0.0.1", port: int = 8000
) -> tuple[str, ...]:
    """Return the command line that serves an OpenAI-style API; it listens here alone by default."""
    if not _HOST.fullmatch(host):
        raise UsageError(f"{host!r} is no host", hint="give a name or an address")
    if not 1 <= port <= 65535:
        raise UsageError(f"{port} is no port", hint="1 to 65535")
    argv = ("trtllm-serve", path(deployed.model, "the model"), *_what(deployed))
    return _checked(version, (*argv, "--host", host, "--port", str(port)))


def bench_argv(version: str, deployed: Deployed, bench: Bench) -> tuple[str, ...]:
    """Return the command line of one benchmark."""
    model = path(deployed.model, "the model")
    source = (
        ("--engine_dir", model, "--backend", "tensorrt") if deployed.compiled else _what(deployed)
    )
    # A compiled engine's tokenizer is read from --model_path.
    weights = path(deployed.tokenizer, "the tokenizer") if deployed.tokenizer else model
    streaming = ("--streaming",) if bench.streaming and bench.kind == "throughput" else ()
    argv = (
        "trtllm-bench",
        *("--model", name(bench.model_name, "the model's name")),
        *("--model_path", weights),
        bench.kind,
        *source,
        *("--dataset", path(bench.dataset, "the data set")),
        *("--num_requests", str(bench.requests)),
        *("--warmup", str(bench.warmup)),
        *("--concurrency", str(bench.concurrency)),
        *streaming,
        *("--report_json", path(bench.report, "the report")),
    )
    return _checked(version, argv)


def eval_argv(
    version: str, deployed: Deployed, task: str, *, dataset: Path | None = None
) -> tuple[str, ...]:
    """Return the command line of one task; NVIDIA means it for development, not for judging."""
    local = ("--dataset_path", path(dataset, "the data set")) if dataset else ()
    model = path(deployed.model, "the model")
    argv = ("trtllm-eval", "--model", model, *_what(deployed), name(task, "the task"), *local)
    return _checked(version, argv)


def _what(deployed: Deployed) -> tuple[str, ...]:
    if deployed.config is not None:
        return (YAML, path(deployed.config, "the configuration"))
    assert deployed.tokenizer is not None
    return ("--backend", "tensorrt", "--tokenizer", path(deployed.tokenizer, "the tokenizer"))


def _checked(version: str, argv: Sequence[str]) -> tuple[str, ...]:
    refusals = validate_argv(argv[0], version, argv)
    if refusals:
        raise PlanError(refusals)
    return tuple(argv)
