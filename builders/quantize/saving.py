"""Write a file of tensors while they still come from the GPU, with the bytes of the library's own.

safetensors copies all tensors of a file into the host's memory before it writes the first, and
holds Python's lock meanwhile.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import ModuleType

from torch import Tensor

from builders.quantize.octets import octets, planned
from builders.quantize.placing import Layout
from builders.quantize.staging import Outward


@contextlib.contextmanager
def taken_over(module: ModuleType, name: str) -> Iterator[None]:
    """Let a library's module save by `save_file`, under the name by which it knows safetensors'."""
    kept = getattr(module, name)
    setattr(module, name, save_file)
    try:
        yield
    finally:
        setattr(module, name, kept)


def save_file(
    tensors: Mapping[str, Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write what ``safetensors.torch.save_file`` writes; every file is marked as PyTorch's."""
    assert metadata in (None, {"format": "pt"})
    layout = Layout.of(planned(name, tensor) for name, tensor in tensors.items())
    opened = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        layout.begin(opened)
        with Outward() as outward:
            for name in sorted(tensors, key=layout.offsets.__getitem__):
                outward.write(opened, octets(tensors[name]), layout.offsets[name])
    finally:
        os.close(opened)
