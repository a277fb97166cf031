"""Tensors as the bytes that safetensors files hold."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from builders.quantize.placing import Planned

NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint16: "U16", torch.int16: "I16", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES: Final[Mapping[str, torch.dtype]] = {name: dtype for dtype, name in NAMES.items()}


def planned(name: str, tensor: Tensor) -> Planned:
    """Describe a tensor, which may be a meta tensor without data."""
    return Planned(
        name=name, dtype=NAMES[tensor.dtype], shape=tuple(tensor.shape), bytes=tensor.nbytes
    )


def octets(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, where it is, as a flat tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def view(bits: Tensor) -> memoryview:
    """Return bytes that lie in the host's memory, to be read or written in place."""
    return memoryview(bits.numpy())  # type: ignore[arg-type] # numpy arrays are buffers
