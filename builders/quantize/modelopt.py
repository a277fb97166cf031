"""Quantize with NVIDIA ModelOpt 0.47, on a GPU if there is one.

Torch, transformers and ModelOpt are imported here and nowhere else in this room: about six seconds.
"""

import contextlib
import copy
import difflib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import modelopt.torch.quantization as mtq
import torch
import transformers
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.nn import TensorQuantizer
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from builders import files
from builders.checkpoint import Checkpoint
from builders.errors import BuildersError, ToolError, UsageError
from builders.formats import Format
from builders.progress import Progress
from builders.quantize.calibration import Corpus, Document, bucket
from builders.quantize.shapes import ALWAYS
from builders.recipe import Recipe

Batches = tuple[tuple[Sequence[int], ...], ...]

KV_PRESETS: Final = {Format.FP8: "FP8_KV_CFG"}
_BATCH_TOKENS: Final = 4096
_TOGETHER: Final = "do config.json and the weights belong together?"
# What torch, transformers and ModelOpt raise when they cannot go on.
_FAILURES: Final = (
    RuntimeError, ValueError, AssertionError, TypeError, KeyError, AttributeError, IndexError,
    MemoryError,
)  # fmt: skip


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    progress: Progress,
) -> None:
    """Load, calibrate, round, and write into ``out`` what ModelOpt exports."""
    with _quiet(), torch.inference_mode():
        model = _load(checkpoint, progress)
        batches = _batches(checkpoint, model, corpus) if corpus else ()
        with _wrapped(f"ModelOpt could not quantize {checkpoint.path} by {recipe}"):
            _calibrate(model, recipe, batches, progress)
        progress("export", 0, 1)
        with _wrapped(f"ModelOpt could not export {recipe}"), _writing(out):
            export_hf_checkpoint(model, export_dir=out)
        progress("export", 1, 1)


def config(recipe: Recipe) -> dict[str, Any]:
    """Return ModelOpt's own configuration of a recipe: preset, then exclusions, then KV cache.

    Later entries win, so an excluded layer still keeps its KV cache in the format of all layers:
    runtimes know one format for the whole cache.
    """
    chosen: dict[str, Any] = copy.deepcopy(getattr(mtq, recipe.preset))
    kept = dict.fromkeys((*ALWAYS, *recipe.keep))
    chosen["quant_cfg"] += [{"quantizer_name": f"{glob}.*", "enable": False} for glob in kept]
    if not recipe.kv_cache.quantized:
        return chosen
    if recipe.kv_cache not in KV_PRESETS:
        known = ", ".join(["none", *(fmt.value for fmt in KV_PRESETS)])
        raise UsageError(
            f"ModelOpt exports no KV cache in {recipe.kv_cache.value}", hint=f"use {known}"
        )
    kv_cache = getattr(mtq, KV_PRESETS[recipe.kv_cache])["quant_cfg"]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the whole configuration
        updated: dict[str, Any] = mtq.update_quant_cfg_with_kv_cache_quant(chosen, kv_cache)
    return updated


def device() -> torch.device:
    """Return where to calibrate: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(checkpoint: Checkpoint, progress: Progress) -> nn.Module:
    """Load the source in its own dtype, from safetensors, running no code of the checkpoint."""
    progress("load the checkpoint", 0, 1)
    _know(checkpoint)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are told, not only logged; refused below
            output_loading_info=True,
        )
    except (OSError, SafetensorError, *_FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: transformers cannot load it: {_first_line(error)}",
            hint=_TOGETHER,
        ) from error
    _refuse_strangers(told, checkpoint)
    _refuse_damaged(model, checkpoint)
    progress("load the checkpoint", 1, 1)
    loaded: nn.Module = model.to(device()).eval()
    return loaded


def _know(checkpoint: Checkpoint) -> None:
    """Refuse an architecture that transformers has no code of its own for."""
    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    known = {name for value in classes for name in _names(value)}
    model_type = str(checkpoint.config.get("model_type"))
    if checkpoint.architecture in known and model_type in CONFIG_MAPPING_NAMES:
        return
    near = difflib.get_close_matches(checkpoint.architecture, known, cutoff=0.8)
    raise UsageError(
        f"{checkpoint.path / 'config.json'}: unknown architecture {checkpoint.architecture} "
        f"({model_type}): transformers {transformers.__version__} has no such language model",
        hint=(f"did you mean {near[0]}? " if near else "a newer transformers may know it; ")
        + "code that ships with a checkpoint is never run",
    )


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _refuse_strangers(told: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse what transformers would fill with random numbers or drop, and only log."""
    kinds = {
        "missing_keys": "is missing",
        "mismatched_keys": "has another shape than config.json says",
        "unexpected_keys": "has no place",
    }
    for kind, what in kinds.items():
        names = sorted(key if isinstance(key, str) else str(key[0]) for key in told[kind])
        if names:
            more = f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
            raise UsageError(
                f"{checkpoint.path}: {names[0]} {what} in {checkpoint.architecture}{more}",
                hint=_TOGETHER,
            )


def _refuse_damaged(model: nn.Module, checkpoint: Checkpoint) -> None:
    for name, weight in model.named_parameters():
        low_high = torch.stack(torch.aminmax(weight.detach()))
        if not bool(torch.isfinite(low_high).all()):
            raise UsageError(
                f"{checkpoint.path}: {name} holds NaN or infinity",
                hint="the checkpoint is damaged: fetch or save it again",
            )


def _batches(checkpoint: Checkpoint, model: nn.Module, corpus: Corpus) -> Batches:
    """Tokenize what was chosen; a text longer than the length or the model's context is cut."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ImportError, *_FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: the tokenizer cannot be read: {_first_line(error)}",
            hint="copy the tokenizer files of the original model beside the weights",
        ) from error
    length = min(corpus.length, checkpoint.context)
    rows = [_tokens(tokenizer, document, length) for document in corpus.chosen]
    batches = bucket(rows, tokens=_BATCH_TOKENS)
    if not batches:
        raise UsageError("the calibration texts have no tokens", hint="give longer texts")
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    largest = max(max(row) for batch in batches for row in batch)
    if largest >= size:
        raise UsageError(
            f"{checkpoint.path}: the tokenizer made token {largest}, but the model has only {size}",
            hint="do the tokenizer and the weights belong together?",
        )
    return batches


def _tokens(tokenizer: Any, document: Document, length: int) -> list[int]:  # noqa: ANN401
    text, special = document.text, True
    if document.messages:
        messages = [{"role": role, "content": content} for role, content in document.messages]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # the template is a program of the checkpoint's author
            raise UsageError(
                f"{document.place}: the chat template refuses these messages: {_first_line(error)}",
                hint="templates usually want user and assistant in turn",
            ) from error
        special = False
    ids: list[int] = tokenizer(
        text, truncation=True, max_length=length, add_special_tokens=special
    )["input_ids"]
    return ids


def _calibrate(model: nn.Module, recipe: Recipe, batches: Batches, progress: Progress) -> None:
    loop = _Loop(batches, progress) if batches else None
    mtq.quantize(model, config(recipe), loop and loop.run)
    missed = [name for name, part in _quantizers(model) if _is_uncalibrated(name, part)]
    if missed:
        raise ToolError(
            f"no calibration token reached {missed[0]} ({len(missed)} such quantizers)",
            hint="give more or longer calibration texts, or exclude this layer",
        )
    dead = [name for name, part in _quantizers(model) if _is_dead(name, part)]
    if dead:
        raise ToolError(
            f"{dead[0].rpartition('.')[0]} has weights that are all zero where {recipe.name} needs "
            f"a scale ({len(dead)} such layers)",
            hint="exclude these layers, or use a recipe with larger groups",
        )


class _Loop:
    """Feeds the batches through a model, tells how far it is, and names the layer that fails."""

    def __init__(self, batches: Batches, progress: Progress) -> None:
        self._batches = batches
        self._progress = progress
        self._passes = 0
        self._at = ""

    def run(self, model: nn.Module) -> None:
        """Run every batch once; ModelOpt calls this once or several times, by algorithm."""
        self._passes += 1
        what = "calibrate" if self._passes == 1 else f"calibrate, pass {self._passes}"
        total = sum(len(row) for batch in self._batches for row in batch)
        done = 0
        self._progress(what, done, total, unit="tokens")
        with self._watched(model):
            for batch in self._batches:
                self._forward(model, batch)
                done += sum(len(row) for row in batch)
                self._progress(what, done, total, unit="tokens")

    def _forward(self, model: nn.Module, batch: Sequence[Sequence[int]]) -> None:
        try:
            logits = model(torch.tensor(batch, device=device()), use_cache=False).logits
        except AssertionError as error:  # ModelOpt's calibrator met NaN or infinity
            raise _not_finite(self._at) from error
        if not bool(torch.isfinite(logits).all()):
            raise _not_finite("the output")

    @contextlib.contextmanager
    def _watched(self, model: nn.Module) -> Iterator[None]:
        hooks = [
            part.register_forward_pre_hook(partial(self._enter, name))
            for name, part in _quantizers(model)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str, *_: object) -> None:
        self._at = name.rpartition(".")[0]


def _not_finite(where: str) -> ToolError:
    return ToolError(
        f"activations at {where} are not finite while calibrating",
        hint="is the source sound? float16 overflows where bfloat16 does not: convert it",
    )


def _quantizers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return (pair for pair in model.named_modules() if isinstance(pair[1], TensorQuantizer))


def _is_uncalibrated(name: str, part: Any) -> bool:  # noqa: ANN401
    static = part.is_enabled and not part._dynamic and not part.is_mx_format  # noqa: SLF001
    return static and not _is_of_weight(name) and part.amax is None


def _is_dead(name: str, part: Any) -> bool:  # noqa: ANN401
    """A scale of zero: the export would fail on it, or worse, not."""
    if not (part.is_enabled and _is_of_weight(name)) or part.amax is None:
        return False
    return bool((part.amax <= 0).any())


def _is_of_weight(name: str) -> bool:
    return "weight_quantizer" in name  # also of fused experts: gate_up_proj_weight_quantizers.0


@contextlib.contextmanager
def _wrapped(what: str) -> Iterator[None]:
    """Turn whatever the libraries raise into one `ToolError`."""
    try:
        yield
    except BuildersError:
        raise
    except torch.OutOfMemoryError as error:
        raise ToolError(f"{what}: out of GPU memory", hint="use a larger GPU") from error
    except _FAILURES as error:
        raise ToolError(
            f"{what}: {_first_line(error)}", hint="run again with --debug for the whole story"
        ) from error


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn the ways of a full or read-only disk to announce itself into a `ToolError`."""
    try:
        with files.disk_errors(f"writing {out}"):
            yield
    except SafetensorError as error:  # it wraps the operating system's error in words
        raise ToolError(
            f"writing {out}: {_first_line(error)}",
            hint="free space or mend permissions there, then run the same command again",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' prints, bars and warnings off the terminal while they work for us."""
    loggers = [logging.getLogger(name) for name in ("transformers", "modelopt")]
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
