"""Which library makes which recipe's export, and how its module is loaded: when it is used."""

import contextlib
import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol, cast

from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.parse import nearest
from builders.progress import Progress
from builders.quantize.calibration import Corpus
from builders.quantize.conversion import Conversion
from builders.quantize.memory import Way
from builders.recipe import Recipe

BACKENDS: Final = {
    "modelopt": "builders.quantize.modelopt",
    "bitsandbytes": "builders.quantize.bitsandbytes",
    "hqq": "builders.quantize.hqq",
    "gptq": "builders.quantize.gptq",
    "awq": "builders.quantize.awq",
}
# How ModelOpt's recipes are made of what is larger than memory.
PIECES: Final = {
    Way.TENSORS: "builders.quantize.stream",
    Way.LAYERS: "builders.quantize.layerwise",
}
_LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "modelopt": ("nvidia-modelopt",),
    "bitsandbytes": ("bitsandbytes",),
    "hqq": ("hqq",),
}
# What a backend would import only because it is installed. On some CPUs bitsandbytes fetches
# compiled code from the hub by kernels. ModelOpt makes ready for the others, and none is used here:
# with vLLM alone its import takes twice as long.
_UNUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "bitsandbytes": ("kernels",),
    "modelopt": (
        "kernels", "vllm", "peft", "torch_geometric", "diffusers", "megatron", "datasets",
        "sklearn", "hqq",
    ),
}  # fmt: skip
_EXTRAS: Final = {"modelopt": "quantize"}  # where the extra is not named like the backend


class Quantizer(Protocol):
    """A library that calibrates, rounds and writes; what this room asks of it."""

    def quantize(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        corpus: Corpus | None,
        out: Path,
        progress: Progress,
    ) -> None:
        """Fill ``out`` with weights, scales, config.json and hf_quant_config.json."""


class Piecemeal(Protocol):
    """A way to make ModelOpt's exports of what is larger than memory."""

    def quantize(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        corpus: Corpus | None,
        out: Path,
        scratch: Path,
        progress: Progress,
    ) -> None:
        """Fill ``out`` as ModelOpt would, going on with what lies in ``scratch``."""


class Converter(Protocol):
    """A library that also writes TensorRT-LLM checkpoints."""

    def convert(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe | None,
        corpus: Corpus | None,
        how: Conversion,
        out: Path,
        progress: Progress,
    ) -> None:
        """Fill ``out`` with config.json and a file of weights for each rank."""


if TYPE_CHECKING:
    from builders.quantize import awq, bitsandbytes, gptq, hqq, layerwise, modelopt, stream

    _checked: dict[str, Quantizer] = {
        "modelopt": modelopt,
        "bitsandbytes": bitsandbytes,
        "hqq": hqq,
        "gptq": gptq,
        "awq": awq,
    }
    _pieces: dict[str, Piecemeal] = {"stream": stream, "layerwise": layerwise}
    _converters: dict[str, Converter] = {"modelopt": modelopt}


def libraries(recipe: Recipe) -> tuple[str, ...]:
    """Name the distributions whose versions decide what comes out.

    What is installed in an environment of its own is pinned beside this room's code.
    """
    return _LIBRARIES.get(recipe.backend, ())


def load(name: str) -> Quantizer:
    """Import a backend by name; a missing library is a `ToolError` that says how to get it."""
    if name not in BACKENDS:
        raise UsageError(f"unknown quantizer {name!r}", hint=nearest(name, BACKENDS))
    return cast("Quantizer", loaded(name, BACKENDS[name]))


def loaded(name: str, module: str) -> ModuleType:
    """Import a module of a backend; a missing library is a `ToolError` that says how to get it."""
    try:
        with warnings.catch_warnings(), _without(_UNUSED.get(name, ())), _uncollected():
            warnings.simplefilter("ignore")  # ModelOpt tells of each optional plugin it lacks
            return importlib.import_module(module)
    except ImportError as error:
        raise ToolError(
            f"the quantizer {name} cannot be loaded: {error}",
            hint=f"pip install 'enginesmith[{_EXTRAS.get(name, name)}]', then enginesmith doctor",
        ) from error


@contextlib.contextmanager
def _without(libraries: Collection[str]) -> Iterator[None]:
    """Let imports of some libraries fail while the block runs."""
    before = {name: sys.modules.pop(name, None) for name in libraries}
    sys.modules.update(dict.fromkeys(libraries))  # type: ignore[arg-type] # Python's sign of absence
    quiet = logging.getLogger("bitsandbytes")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage while the block runs.

    Imports make many objects that all stay; to look through them over and over takes a tenth of the
    time and more (`tests/bench/imports.py`).
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
