"""Quantize with NVIDIA ModelOpt 0.47, on a GPU if there is one.

Importing torch, transformers and ModelOpt takes about six seconds.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
import transformers
from modelopt.torch.export import export_hf_checkpoint, export_tensorrt_llm_checkpoint
from safetensors import SafetensorError
from torch import nn

from builders import files
from builders.checkpoint import Checkpoint
from builders.errors import BuildersError, ToolError
from builders.progress import Progress
from builders.quantize import declaration, emulation, fused, loading, saving, search
from builders.quantize.calibration import Corpus
from builders.quantize.configuration import config
from builders.quantize.conversion import Conversion
from builders.quantize.experts import Reached
from builders.quantize.loading import FAILURES, first_line
from builders.quantize.loop import Loop, batched, forward, hidden, is_of_weight, quantizers
from builders.quantize.rows import tokenize
from builders.quantize.shapes import kept
from builders.recipe import Recipe, Unreached


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    progress: Progress,
) -> None:
    """Load, calibrate, round, and write into ``out`` what ModelOpt exports."""
    with _rounded(checkpoint, recipe, corpus, progress) as model:
        progress("export", 0, 1)
        with wrapped(f"ModelOpt could not export {recipe}"), writing(out):
            with saving.taken_over(transformers.modeling_utils, "safe_save_file"):
                export_hf_checkpoint(model, export_dir=out)
            declaration.complete(out, kept(checkpoint, recipe))
        progress("export", 1, 1)


def convert(
    checkpoint: Checkpoint,
    recipe: Recipe | None,
    corpus: Corpus | None,
    how: Conversion,
    out: Path,
    progress: Progress,
) -> None:
    """Write what trtllm-build takes; without a recipe, of the model as it is."""
    with _rounded(checkpoint, recipe, corpus, progress) as model:
        progress("export", 0, 1)
        what = f"ModelOpt could not export {recipe or checkpoint.path} for TensorRT-LLM"
        with wrapped(what), writing(out):
            export_tensorrt_llm_checkpoint(
                model,
                how.decoder_type,
                dtype=getattr(torch, how.dtype),
                export_dir=out,
                inference_tensor_parallel=how.tp,
                inference_pipeline_parallel=how.pp,
            )
        progress("export", 1, 1)


@contextlib.contextmanager
def _rounded(
    checkpoint: Checkpoint, recipe: Recipe | None, corpus: Corpus | None, progress: Progress
) -> Iterator[nn.Module]:
    """Load a model and, by a recipe, calibrate and round it."""
    if recipe is None:
        with quiet(), torch.inference_mode():
            yield loading.load(checkpoint, progress)
        return
    grades = torch.no_grad() if recipe.mixed else torch.inference_mode()
    with quiet(), grades, emulation.available():
        model = loading.load(checkpoint, progress)
        loop = _loop(checkpoint, recipe, model, corpus, progress) if corpus else None
        reached = Reached()
        with (
            wrapped(f"ModelOpt could not quantize {checkpoint.path} by {recipe}"),
            reached.counted(model),
        ):
            _calibrate(model, checkpoint, recipe, loop)
            settle(model, recipe)
        if corpus:
            tell(reached, corpus, progress)
        yield model


def _loop(
    checkpoint: Checkpoint, recipe: Recipe, model: nn.Module, corpus: Corpus, progress: Progress
) -> Loop:
    """Make batches; a search of a mixture alone needs logits, for no head is rounded."""
    compute = forward if recipe.mixed else hidden
    return Loop(batched(model, rows(checkpoint, model, corpus), compute), progress, compute)


def rows(checkpoint: Checkpoint, model: nn.Module, corpus: Corpus) -> list[list[int]]:
    """Tokenize the calibration texts for a model."""
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return tokenize(checkpoint, corpus, vocabulary=size)


def tell(reached: Reached, corpus: Corpus, progress: Progress) -> None:
    """Say which experts met no token, or refuse, as the calibration wants."""
    if corpus.unreached is Unreached.FAIL:
        reached.refuse()
    reached.tell(progress)


def _calibrate(model: nn.Module, checkpoint: Checkpoint, recipe: Recipe, loop: Loop | None) -> None:
    if recipe.mixed:
        assert loop is not None
        search.mix(model, checkpoint, recipe, loop)
    else:
        chosen = emulation.where_needed(config(recipe, checkpoint), loading.device())
        mtq.quantize(model, chosen, loop and loop.run)


def settle(model: nn.Module, recipe: Recipe) -> None:
    """Refuse scales that were never set or cannot be right, before anything is written."""
    missed = [name for name, part in quantizers(model) if _is_uncalibrated(name, part)]
    if missed:
        raise ToolError(
            f"no calibration token reached {missed[0]} ({len(missed)} such quantizers)",
            hint="give more or longer calibration texts, or exclude this layer",
        )
    dead = [name for name, part in quantizers(model) if _is_dead(name, part)]
    if dead:
        raise ToolError(
            f"{dead[0].rpartition('.')[0]} has weights that are all zero where {recipe.name} needs "
            f"a scale ({len(dead)} such layers)",
            hint="exclude these layers, or use a recipe with larger groups",
        )
    fused.unite(model)


def _is_uncalibrated(name: str, part: Any) -> bool:  # noqa: ANN401
    static = part.is_enabled and not part._dynamic and not part.is_mx_format  # noqa: SLF001
    return static and not is_of_weight(name) and part.amax is None


def _is_dead(name: str, part: Any) -> bool:  # noqa: ANN401
    """A scale of zero: the export would fail on it, or worse, not."""
    if not (part.is_enabled and is_of_weight(name)) or part.amax is None:
        return False
    return not bool((part.amax > 0).all())


@contextlib.contextmanager
def wrapped(what: str) -> Iterator[None]:
    """Turn whatever the libraries raise into one `ToolError`."""
    try:
        yield
    except BuildersError:
        raise
    except torch.OutOfMemoryError as error:
        raise ToolError(f"{what}: out of GPU memory", hint="use a larger GPU") from error
    except FAILURES as error:
        raise ToolError(
            f"{what}: {first_line(error)}", hint="run again with --debug for the whole story"
        ) from error


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn the ways of a full or read-only disk to announce itself into a `ToolError`."""
    try:
        with files.disk_errors(f"writing {out}"):
            yield
    except SafetensorError as error:  # it wraps the operating system's error in words
        raise ToolError(
            f"writing {out}: {first_line(error)}",
            hint="free space or mend permissions there, then run the same command again",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' prints, bars and warnings off the terminal while they work for us."""
    loggers = [logging.getLogger(name) for name in ("transformers", "modelopt", "accelerate")]
    levels = [logger.level for logger in loggers]
    transformers.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
