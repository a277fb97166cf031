"""Drive a quantizer that lives in another environment: one JSON job in, JSON lines out.

The worker is a program of the standard library and its own quantizer. It reads the job from stdin
and answers as `builders.spoken` says. It is ended when we end, however we end.
"""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from builders import process, spoken
from builders.environment import Environment
from builders.errors import ToolError
from builders.home import Home
from builders.progress import Progress

# Who asks for nothing of the hub gets nothing from it; threads that wait must not spin.
_SETTINGS: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def script(name: str) -> Path:
    """Return the program of this name that ships with the package."""
    return Path(str(resources.files("builders.quantize.envs") / f"{name}.py"))


def run(
    environment: str, program: Path, job: Mapping[str, object], progress: Progress
) -> Mapping[str, object]:
    """Run a job in the environment of this name and return its result.

    The environment must be ready. Whatever goes wrong is a `ToolError` (or the `UsageError` that
    the worker meant) with the tail of the log. The worker's directory is that of the log, for
    quantizers leave files of their own where they run.
    """
    home = Home.find(Path.cwd(), os.environ)
    python = Environment.find(environment, home).required().python
    log = home.runs / f"quantize-{environment}.log"
    log.unlink(missing_ok=True)
    argv = (str(python), "-I", "-u", str(program))
    settings = _settings(os.environ)
    heard = process.converse(argv, say=json.dumps(job), log=log, env=settings, folder=home.runs)
    with closing(heard) as lines:
        for line in lines:
            if (result := spoken.heard(line, log, progress)) is not None:
                return result
    raise ToolError(
        f"the worker ended without a result:\n{process.tail(log)}", hint=f"the whole log: {log}"
    )


def _settings(env: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in env.items() if not k.startswith(("PYTHON", "VIRTUAL_", "HF_TOKEN"))}
    return kept | _SETTINGS
