"""Carry bytes between files and a GPU through a few buffers, which it fills and empties fast.

Memory holds no more than these buffers: while the GPU copies one, threads read or write the others.
Tensors that lie in the host's memory are read and written where they are.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, Self

import torch
from torch import Tensor

from builders.quantize.octets import view
from builders.quantize.placing import read, write

_BUFFER: Final = 1 << 26  # bytes that are copied at once
_BUFFERS: Final = 8
_THREADS: Final = 4


class Outward:
    """Writes bytes into open files, by threads; done when `wait` returns or the block ends."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "write")
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        self._buffers = 0
        self._written: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown()
        if failed is None:
            self.wait()

    def write(self, opened: int, bits: Tensor, offset: int) -> None:
        """Begin to write flat bytes to a place in a file; the tensor must not change any more."""
        if bits.device.type == "cpu":
            self._written.append(self._threads.submit(write, opened, view(bits), offset))
            return
        for at in range(0, len(bits), _BUFFER):
            piece, buffer = bits[at : at + _BUFFER], self._buffer()
            buffer[: len(piece)].copy_(piece)
            task = self._threads.submit(self._emptied, opened, buffer, len(piece), offset + at)
            self._written.append(task)

    def wait(self) -> None:
        """Return when all is written; the first error is raised."""
        written, self._written = self._written, []
        for one in written:
            one.result()

    def _buffer(self) -> Tensor:
        if self._buffers < _BUFFERS and self._free.empty():
            self._buffers += 1
            return _pinned()
        return self._free.get()

    def _emptied(self, opened: int, buffer: Tensor, size: int, offset: int) -> None:
        try:
            write(opened, view(buffer[:size]), offset)
        finally:
            self._free.put(buffer)


class Inward:
    """Reads bytes of files to where is computed, while what was read before is still copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[tuple[Tensor, torch.cuda.Event]] = []

    def read(self, opened: int, offset: int, size: int) -> Tensor:
        """Return so many bytes from a place in a file, flat, on the device.

        Raises an `OSError` where the file is shorter.
        """
        found = torch.empty(size, dtype=torch.uint8, device=self._device)
        if self._device.type == "cpu":
            read(opened, view(found), offset)
            return found
        for at in range(0, size, _BUFFER):
            piece = found[at : at + _BUFFER]
            buffer, copied = self._next()
            copied.synchronize()
            read(opened, view(buffer[: len(piece)]), offset + at)
            piece.copy_(buffer[: len(piece)], non_blocking=True)
            copied.record()
        return found

    def _next(self) -> tuple[Tensor, torch.cuda.Event]:
        """Lend the buffer that was lent longest ago."""
        if len(self._buffers) < 2:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it bare
            self._buffers.append((_pinned(), event))
        else:
            self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]


def _pinned() -> Tensor:
    return torch.empty(_BUFFER, dtype=torch.uint8, pin_memory=True)
