"""A checkpoint's tensors, read one by one; what nobody reads is an error."""

import re
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from builders.checkpoint import Checkpoint
from builders.errors import ToolError

_IGNORED: Final = re.compile(r"rotary_emb\.inv_freq$")  # Llama files of before 2024 carry it


class Tensors:
    """The tensors by name; on leaving the block, one that was not asked for is an error."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Open every shard; tensors arrive on ``device``."""
        self.checkpoint = checkpoint
        names = {info.file for info in checkpoint.tensors.values()}
        self._files = {
            name: safe_open(checkpoint.path / name, framework="pt", device=str(device))
            for name in names
        }
        self._unread = {name for name in checkpoint.tensors if not _IGNORED.search(name)}

    def leave(self, patterns: Collection[str]) -> None:
        """Expect nobody to ask for tensors of these names, which regular expressions tell."""
        self._unread -= {n for n in self._unread for pattern in patterns if re.search(pattern, n)}

    def __contains__(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise ToolError(
                f"{self.checkpoint.path}: {self.checkpoint.architecture} needs {name}, which no "
                "file has",
                hint="the weights and config.json do not belong together; fetch or export again",
            )
        self._unread.discard(name)
        try:
            file = self._files[self.checkpoint.tensors[name].file]
            found: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise ToolError(f"{self.checkpoint.path}: {name}: {error}") from error
        return found

    def expect(self, name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
        """Refuse a tensor whose shape is not what config.json makes of it."""
        if tuple(found) != tuple(wanted):
            raise ToolError(
                f"{self.checkpoint.path}: {name} is {list(found)}, but config.json makes it "
                f"{list(wanted)}",
                hint="the weights and config.json do not belong together",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.clear()
        if error is None and self._unread:
            raise ToolError(
                f"{self.checkpoint.path}: nothing in {self.checkpoint.architecture} reads "
                f"{min(self._unread)} ({len(self._unread)} such tensors)",
                hint="the weights and config.json do not belong together, or this architecture "
                "stores them in a form that the embedded runtime does not know",
            )
