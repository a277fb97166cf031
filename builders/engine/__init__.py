"""Build and open engines: what a runtime loads. This door is light: backends load when used."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from builders.engine.description import Description, EngineSettings
from builders.errors import ToolError, UsageError
from builders.parse import nearest
from builders.progress import Progress
from builders.scorer import Scorer

BACKENDS: Final = {
    "embedded": "builders.engine.embedded.builder",
    "llmapi": "builders.engine.trtllm.llmapi",
    "tensorrt": "builders.engine.trtllm.compiled",
    "vllm": "builders.engine.vllm.builder",
}
SCORERS: Final = {
    "embedded": "builders.engine.embedded.model",
    "llmapi": "builders.engine.trtllm.scoring",
    "tensorrt": "builders.engine.trtllm.scoring",
}

__all__ = ["BACKENDS", "SCORERS", "EngineBuilder", "EngineSettings", "build", "scorer"]


class EngineBuilder(Protocol):
    """A runtime's way to make an engine from a checkpoint."""

    def build(
        self,
        checkpoint: Path,
        settings: EngineSettings,
        out: Path,
        progress: Progress,
        *,
        owned: bool = False,
    ) -> None:
        """Fill the empty directory ``out`` with all that the runtime loads.

        Files of a checkpoint that the store ``owned`` before may be hard-linked; a user's may not.
        """


class Opened(Scorer, Protocol):
    """An opened engine that scores until it is closed."""

    def close(self) -> None:
        """Give back what the engine holds."""


class ScorerModule(Protocol):
    """A module that opens a runtime's engine in this process."""

    def open_scorer(self, engine: Path) -> Opened:
        """Load the engine in ``engine``."""


if TYPE_CHECKING:
    from builders.engine.embedded import builder, model
    from builders.engine.trtllm import compiled, llmapi, scoring
    from builders.engine.vllm import builder as vllm

    _builders: dict[str, EngineBuilder] = {
        "embedded": builder,
        "llmapi": llmapi,
        "tensorrt": compiled,
        "vllm": vllm,
    }
    _scorers: dict[str, ScorerModule] = {
        "embedded": model,
        "llmapi": scoring,
        "tensorrt": scoring,
    }


def build(
    runtime: str,
    checkpoint: Path,
    settings: EngineSettings,
    out: Path,
    progress: Progress,
    *,
    owned: bool = False,
) -> None:
    """Fill the directory ``out`` with the engine that ``runtime`` loads from a checkpoint.

    The files of one that the store has ``owned`` before are linked, any others are copied.
    """
    backend = cast("EngineBuilder", _load(runtime, BACKENDS))
    backend.build(checkpoint, settings, out, progress, owned=owned)


@contextmanager
def scorer(engine: Path) -> Iterator[Scorer]:
    """Open an engine for scoring while the block runs."""
    runtime = Description.read(engine).runtime
    opened = cast("ScorerModule", _load(runtime, SCORERS)).open_scorer(engine)
    try:
        yield opened
    finally:
        opened.close()


def _load(runtime: str, table: dict[str, str]) -> object:
    if runtime not in table:
        raise UsageError(f"unknown runtime {runtime!r}", hint=nearest(runtime, table))
    try:
        return importlib.import_module(table[runtime])
    except ImportError as error:
        raise ToolError(
            f"the runtime {runtime} cannot be loaded: {error}",
            hint=f"pip install 'enginesmith[{runtime}]', then enginesmith doctor",
        ) from error
