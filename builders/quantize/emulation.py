"""Compute on a CPU the rounding of dynamic blocks, for which ModelOpt has CUDA kernels alone.

Calibrations that look at the rounded model (AWQ, the search for mixed formats) and measurements of
it run these blocks forward. ModelOpt's own hook takes them: a named backend of its quantizers.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from modelopt.torch.quantization import extensions
from modelopt.torch.quantization.nn import TensorQuantizer
from modelopt.torch.quantization.nn.modules.tensor_quantizer import (
    register_quant_backend,
    unregister_quant_backend,
)
from torch import Tensor

from builders.errors import ToolError
from builders.numerics import blocks

NAME: Final = "enginesmith-blocks"
_E4M3: Final = (4, 3)
_E8M0: Final = (8, 0)
_LARGEST: Final[Mapping[object, float]] = {(2, 1): blocks.E2M1_MAX, _E4M3: blocks.E4M3_MAX}


@contextlib.contextmanager
def available() -> Iterator[None]:
    """Let ModelOpt's quantizers compute here what is configured for it, while the block runs."""
    register_quant_backend(NAME, _round)
    _compile_nothing()
    try:
        yield
    finally:
        unregister_quant_backend(NAME)


def _compile_nothing() -> None:
    """Let torch round integers on a GPU, where ModelOpt would first compile a kernel for a minute.

    It falls back to torch by itself where there is no compiler; the numbers are the same.
    """
    if not hasattr(extensions.get_cuda_ext, "extension"):
        extensions.get_cuda_ext.extension = None


def where_needed(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Send the dynamic blocks of a ModelOpt configuration here, unless the device has kernels."""
    if device.type == "cuda":
        return config
    for entry in config["quant_cfg"]:
        settings = entry.get("cfg")
        for one in settings if isinstance(settings, list) else [settings]:
            if one and (one.get("block_sizes") or {}).get("type") == "dynamic":
                one["backend"] = NAME
    return config


def _round(values: Tensor, quantizer: TensorQuantizer) -> Tensor:
    found: Tensor = _PassThrough.apply(values, quantizer)  # type: ignore[no-untyped-call]
    return found


class _PassThrough(torch.autograd.Function):
    """Rounding whose gradient is that of no rounding, as ModelOpt's own."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor, quantizer: TensorQuantizer) -> Tensor:  # noqa: ANN401
        return rounded(values, quantizer)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0], None


def rounded(values: Tensor, quantizer: TensorQuantizer) -> Tensor:
    """Round as the quantizer's blocks say; blocks of a kind that nobody exports are an error."""
    sizes, element = quantizer.block_sizes, quantizer.num_bits
    group = sizes.get(-1) or sizes.get(values.dim() - 1)
    scale = sizes.get("scale_bits")
    wide = values.float()
    if element in _LARGEST and scale == _E8M0:
        found = blocks.mx_round(wide, group, _LARGEST[element])
    elif element == (2, 1) and scale == _E4M3:
        unit = blocks.nvfp4_unit(_largest(wide, quantizer))
        elements, scales = blocks.nvfp4_parts(wide, group, unit)
        found = (elements * (scales * unit).unsqueeze(-1)).flatten(-2)
    else:
        raise ToolError(
            f"dynamic blocks of {element} under scales of {scale} are not computed on a CPU",
            hint="use a GPU for this recipe",
        )
    return found.to(values.dtype)


def _largest(values: Tensor, quantizer: TensorQuantizer) -> Tensor:
    known = quantizer.amax
    return (values.abs() if known is None else known.float()).amax()
