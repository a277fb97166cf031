"""Which tensors a model's class reads, and the refusal of a checkpoint that has others.

Learnt from the class on torch's meta device: no weight is read.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.quantize.loading import FAILURES, first_line


def names(checkpoint: Checkpoint) -> list[str]:
    """Return the tensors that a model reads, in the order of its files.

    One that is missing, has no place or has another shape than config.json says is a `UsageError`.
    """
    model, wanted = _expected(checkpoint)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    drop = tied if bool(model.config.get_text_config().tie_word_embeddings) else set()
    optional = (*drop, *(getattr(model, "_keys_to_ignore_on_load_missing", None) or ()))
    surplus = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    have = checkpoint.tensors
    _refuse(checkpoint, "is missing", (n for n in wanted if n not in have), optional)
    _refuse(checkpoint, "has no place", (n for n in have if n not in wanted), surplus)
    other = (name for name, shape in wanted.items() if name in have and have[name].shape != shape)
    _refuse(checkpoint, "has another shape than config.json says", other, ())
    written = (name for name in wanted if name in have and name not in drop)
    return sorted(written, key=lambda name: (have[name].file, have[name].begin))


def _expected(checkpoint: Checkpoint) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Return the model without its weights, and the tensors that it reads, by the hub's names."""
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=config.dtype, trust_remote_code=False
            )
        model._weight_conversions = get_model_conversion_mapping(model)  # noqa: SLF001
        found = revert_weight_conversion(model, model.state_dict())
    except (OSError, ImportError, *FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: transformers cannot load it: {first_line(error)}",
            hint="do config.json and the weights belong together?",
        ) from error
    return model, {name: tuple(tensor.shape) for name, tensor in found.items()}


def _refuse(
    checkpoint: Checkpoint, what: str, names: Iterator[str], allowed: Sequence[str]
) -> None:
    found = sorted(n for n in names if not any(re.search(glob, n) for glob in allowed))
    if found:
        more = f" (and {len(found) - 1} more tensors)" if len(found) > 1 else ""
        raise UsageError(
            f"{checkpoint.path}: {found[0]} {what} in {checkpoint.architecture}{more}",
            hint="do config.json and the weights belong together?",
        )
