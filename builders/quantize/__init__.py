"""Quantize a checkpoint by a recipe. This door is light: a backend is loaded when it is used."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

from builders import files
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, UsageError
from builders.progress import Progress
from builders.quantize import ahead, interchange, memory
from builders.quantize.backends import PIECES, Converter, Piecemeal, load, loaded
from builders.quantize.calibration import Corpus, is_needed
from builders.quantize.check import check
from builders.quantize.conversion import Conversion
from builders.quantize.memory import Way, Workspace
from builders.quantize.shapes import shape_refusals
from builders.recipe import Calibration, Recipe

TOKENIZER: Final = "tokenizer"  # where a TensorRT-LLM checkpoint has its tokenizer's files


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    out: Path,
    progress: Progress,
    *,
    workspace: Workspace = Workspace(),  # noqa: B008 - a frozen value
) -> None:
    """Fill the empty directory ``out`` with a unified Hugging Face export, checked.

    Everything that can be refused without the backend is refused before it is loaded. What is
    larger than memory is quantized in pieces, kept in the workspace until the end.
    """
    refusals = (
        *shape_refusals(checkpoint, recipe),
        *memory.refusals(checkpoint, recipe, workspace.memory),
    )
    if refusals:
        raise PlanError(refusals)
    corpus = Corpus.read(calibration) if is_needed(recipe) else None
    if corpus and corpus.has_messages:
        _require_chat_template(checkpoint, corpus)
    way = memory.choose(checkpoint, recipe, workspace.memory)
    what = memory.told(way, checkpoint, recipe)
    progress(what, 0, 1)
    if way is Way.WHOLE:
        with ahead.reading(checkpoint):
            backend = load(recipe.backend)
            progress(what, 1, 1)
            backend.quantize(checkpoint, recipe, corpus, out, progress)
    else:
        pieces = cast("Piecemeal", loaded("modelopt", PIECES[way]))
        progress(what, 1, 1)
        with _scratch(workspace, out) as scratch:
            pieces.quantize(checkpoint, recipe, corpus, out, scratch, progress)
    progress("check the export", 0, 1)
    with files.disk_errors(f"finishing {out}"):
        interchange.finish(checkpoint, out)
    check(Checkpoint.open(out), checkpoint, recipe)
    progress("check the export", 1, 1)


@contextlib.contextmanager
def _scratch(workspace: Workspace, out: Path) -> Iterator[Path]:
    """Lend a directory for unfinished work; it is left only where it can be gone on with."""
    place = workspace.scratch or out / ".unfinished"
    with files.disk_errors(f"writing {place}"):
        place.mkdir(parents=True, exist_ok=True)
    yield place
    shutil.rmtree(place)


def convert(
    checkpoint: Checkpoint,
    recipe: Recipe | None,
    calibration: Calibration,
    how: Conversion,
    out: Path,
    progress: Progress,
) -> None:
    """Fill ``out`` with a TensorRT-LLM checkpoint for trtllm-build, ``tokenizer/`` beside it.

    ModelOpt alone writes one. Without a recipe it holds the model as it is.
    """
    if recipe is not None and recipe.backend != "modelopt":
        raise UsageError(
            f"{recipe.name} is made by {recipe.backend}, which writes no TensorRT-LLM checkpoint",
            hint='target.lane = "llmapi" loads Hugging Face exports; or take a recipe of ModelOpt',
        )
    refusals = shape_refusals(checkpoint, recipe) if recipe else ()
    if refusals:
        raise PlanError(refusals)
    corpus = Corpus.read(calibration) if recipe and is_needed(recipe) else None
    if corpus and corpus.has_messages:
        _require_chat_template(checkpoint, corpus)
    progress("load the quantizer", 0, 1)
    with ahead.reading(checkpoint):
        backend = cast("Converter", load("modelopt"))
        progress("load the quantizer", 1, 1)
        backend.convert(checkpoint, recipe, corpus, how, out, progress)
    with files.disk_errors(f"finishing {out}"):
        interchange.copy_texts(checkpoint.path, out / TOKENIZER)


def _require_chat_template(checkpoint: Checkpoint, corpus: Corpus) -> None:
    beside = any(checkpoint.path.glob("chat_template*"))
    config = checkpoint.path / "tokenizer_config.json"
    inside = config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")
    if not beside and not inside:
        place = next(document.place for document in corpus.chosen if document.messages)
        raise UsageError(
            f"{place}: messages need a chat template, and {checkpoint.path} has none",
            hint='give {"text": …} lines, or add chat_template.jinja to the checkpoint',
        )
