"""Rewrite a checkpoint tensor by tensor, for techniques that look at the weights alone.

No model is made and nothing is computed but the rounding, so memory holds one tensor and one shard
of the output, whatever the model's size. Equal inputs write equal bytes.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from builders import files
from builders.checkpoint import INDEX, Checkpoint
from builders.errors import ToolError, UsageError
from builders.progress import Progress
from builders.quantize import expected
from builders.quantize.loading import device, knows, refuse_damaged
from builders.quantize.placing import shard_name
from builders.quantize.shapes import matrices

Round = Callable[[Tensor], Mapping[str, Tensor]]

SHARD_BYTES: Final = 4 << 30
_DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)


def rewrite(
    source: Checkpoint, modules: Collection[str], rounded: Round, out: Path, progress: Progress
) -> None:
    """Write every tensor into ``out``, those of ``modules`` as ``rounded`` returns their parts.

    Of a language model that transformers knows, exactly the tensors that it reads must be there.
    """
    if knows(source):
        expected.names(source)
    writer = _Writer(out)
    done, total = 0, source.weight_bytes
    progress("quantize", 0, total, unit="bytes")
    for name, tensor in _tensors(source):
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module in modules:
            for part, value in rounded(_sound(source, name, tensor).to(device())).items():
                writer.add(f"{module}.{part}", value.detach().cpu().contiguous())
        else:
            if tensor.is_floating_point():
                refuse_damaged(source, name, tensor)
            writer.add(name, tensor)
        done += tensor.nbytes
        progress("quantize", done, total, unit="bytes")
    writer.finish()


def _tensors(source: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of the source, shard by shard, each shard's by name."""
    by_file: dict[str, list[str]] = {}
    for name, info in sorted(source.tensors.items()):
        by_file.setdefault(info.file, []).append(name)
    for file, names in sorted(by_file.items()):
        try:
            with safe_open(source.path / file, framework="pt") as shard:
                for name in names:
                    yield name, shard.get_tensor(name)
        except SafetensorError as error:
            raise UsageError(
                f"{source.path / file}: {error}", hint="fetch this file again"
            ) from error


def _sound(source: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _DTYPES:
        raise UsageError(
            f"{source.path}: {name} is {tensor.dtype}, which is not a format to quantize from",
            hint="quantize the original BF16, FP16 or FP32 checkpoint",
        )
    refuse_damaged(source, name, tensor)
    return tensor


def declare(source: Checkpoint, declaration: Mapping[str, object], out: Path) -> None:
    """Write config.json as transformers resolves it, with what is declared of the quantization."""
    try:
        config = AutoConfig.from_pretrained(
            source.path, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"{source.path / 'config.json'}: transformers cannot read it ({error})",
            hint="a newer transformers may know this model",
        ) from error
    config.quantization_config = dict(declaration)
    files.write_atomic(out / "config.json", config.to_json_string(use_diff=False))


def left_alone(source: Checkpoint, modules: Collection[str]) -> list[str]:
    """Name the linear layers that stay as they are, so that every reader leaves them alone too."""
    others = (name for name in matrices(source) if name not in modules and "embed" not in name)
    return sorted({"lm_head", *others})


class _Writer:
    """Collects tensors into shards of about `SHARD_BYTES` and names them when all are known."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._shards: list[list[str]] = []
        self._open: dict[str, Tensor] = {}
        self._bytes = 0
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one more tensor."""
        if self._open and self._bytes + tensor.nbytes > SHARD_BYTES:
            self._flush()
        self._open[name] = tensor
        self._bytes += tensor.nbytes

    def finish(self) -> None:
        """Write what is left and name the shards; two or more have an index."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            self._part(0).rename(self._out / shard_name(1, count))
            return
        index: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = shard_name(number + 1, count)
            self._part(number).rename(self._out / file)
            index |= dict.fromkeys(names, file)
        metadata = {"total_size": self._total}
        text = json.dumps({"metadata": metadata, "weight_map": dict(sorted(index.items()))})
        files.write_atomic(self._out / INDEX, text + "\n")

    def _flush(self) -> None:
        part = self._part(len(self._shards))
        try:
            with files.disk_errors(f"writing {self._out}"):
                save_file(self._open, part, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps the operating system's error in words
            raise ToolError(
                f"writing {self._out}: {error}",
                hint="free space or mend permissions there, then run the same command again",
            ) from error
        self._shards.append(list(self._open))
        self._total += self._bytes
        self._open, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self._out / f".part-{number:05d}.safetensors"
