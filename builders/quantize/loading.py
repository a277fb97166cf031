"""Load the model that is quantized, strictly: every weight in its place, and finite."""

import difflib
from collections.abc import Mapping
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import is_accelerate_available

from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.progress import Progress

_TOGETHER: Final = "do config.json and the weights belong together?"
# What torch, transformers and ModelOpt raise when they cannot go on.
FAILURES: Final = (
    RuntimeError, ValueError, AssertionError, TypeError, KeyError, AttributeError, IndexError,
    MemoryError,
)  # fmt: skip


def device() -> torch.device:
    """Return where to calibrate: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(checkpoint: Checkpoint, progress: Progress) -> nn.Module:
    """Load the source in its own dtype, from safetensors, running no code of the checkpoint."""
    progress("load the checkpoint", 0, 1)
    know(checkpoint)
    try:
        found, told = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are told, not only logged; refused below
            output_loading_info=True,
            **_placed(),
        )
    except (OSError, SafetensorError, *FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: transformers cannot load it: {first_line(error)}",
            hint=_TOGETHER,
        ) from error
    refuse_strangers(told, checkpoint)
    loaded: nn.Module = found.to(device()).eval()
    for name, weight in loaded.named_parameters():
        refuse_damaged(checkpoint, name, weight)
    progress("load the checkpoint", 1, 1)
    return loaded


def _placed() -> dict[str, Any]:
    """Ask for weights that go to the GPU as they are read, never whole in the host's memory."""
    direct = device().type == "cuda" and is_accelerate_available()
    return {"device_map": {"": device()}} if direct else {}


def know(checkpoint: Checkpoint) -> None:
    """Refuse an architecture that transformers has no code of its own for."""
    if knows(checkpoint):
        return
    known, model_type = _architectures(), str(checkpoint.config.get("model_type"))
    near = difflib.get_close_matches(checkpoint.architecture, known, cutoff=0.8)
    raise UsageError(
        f"{checkpoint.path / 'config.json'}: unknown architecture {checkpoint.architecture} "
        f"({model_type}): transformers {transformers.__version__} has no such language model",
        hint=(f"did you mean {near[0]}? " if near else "a newer transformers may know it; ")
        + "code that ships with a checkpoint is never run",
    )


def knows(checkpoint: Checkpoint) -> bool:
    """Whether transformers has code of its own for this language model."""
    model_type = str(checkpoint.config.get("model_type"))
    return checkpoint.architecture in _architectures() and model_type in CONFIG_MAPPING_NAMES


def _architectures() -> set[str]:
    return {name for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _names(value)}


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def refuse_strangers(told: Mapping[str, Any], checkpoint: Checkpoint) -> None:
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


def refuse_damaged(checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor of numbers that holds NaN or infinity."""
    if not bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all()):
        raise UsageError(
            f"{checkpoint.path}: {name} holds NaN or infinity",
            hint="the checkpoint is damaged: fetch or save it again",
        )


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
