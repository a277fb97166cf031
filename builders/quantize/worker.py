"""Drive a quantizer that lives in another environment: one JSON job in, JSON lines out.

The worker is a program of the standard library and its own quantizer. It reads the job from stdin
and says on stdout, one object a line, ``{"progress": {"what", "done", "total", "unit"}}`` again and
again and at last ``{"result": {…}}`` or ``{"error": {"what", "hint", "kind"}}``. What its library
prints goes to a log. It is ended when we end, however we end.
"""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from builders import process
from builders.environment import Environment
from builders.errors import BuildersError, ToolError, UsageError
from builders.home import Home
from builders.progress import Progress

_KINDS: Final[Mapping[str, type[BuildersError]]] = {"usage": UsageError, "tool": ToolError}
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
    the worker meant) with the tail of the log.
    """
    home = Home.find(Path.cwd(), os.environ)
    python = Environment.find(environment, home).required().python
    log = home.runs / f"quantize-{environment}.log"
    log.unlink(missing_ok=True)
    argv = (str(python), "-I", "-u", str(program))
    said = json.dumps(job)
    with closing(process.converse(argv, say=said, log=log, env=_settings(os.environ))) as lines:
        for line in lines:
            spoken = _parse(line, log)
            if "progress" in spoken:
                _pass_on(spoken["progress"], progress)
            elif "result" in spoken:
                return _mapping(spoken["result"], log)
            else:
                raise _failure(_mapping(spoken.get("error"), log), log)
    raise ToolError(
        f"the worker ended without a result:\n{process.tail(log)}", hint=f"the whole log: {log}"
    )


def _settings(env: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in env.items() if not k.startswith(("PYTHON", "VIRTUAL_", "HF_TOKEN"))}
    return kept | _SETTINGS


def _pass_on(said: object, progress: Progress) -> None:
    if isinstance(said, Mapping):
        done, total = float(said.get("done", 0)), float(said.get("total", 1))
        progress(str(said.get("what")), done, total, unit=str(said.get("unit", "")))


def _parse(line: str, log: Path) -> Mapping[str, object]:
    try:
        spoken = json.loads(line)
    except ValueError:
        spoken = None
    return _mapping(spoken, log)


def _mapping(value: object, log: Path) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ToolError(
            f"the worker broke the protocol:\n{process.tail(log)}", hint=f"the whole log: {log}"
        )
    return value


def _failure(error: Mapping[str, object], log: Path) -> BuildersError:
    kind = _KINDS.get(str(error.get("kind")), ToolError)
    hint = str(error.get("hint") or f"the whole log: {log}")
    return kind(str(error.get("what")), hint=hint)
