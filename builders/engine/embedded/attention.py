"""Attention as transformers' models call it: causal over whole sequences, or one token a row."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from builders.errors import ToolError

NAME: Final = "enginesmith"
# What some models pass beside the usual: attention that is not computed here.
_UNKNOWN: Final = ("softcap", "s_aux", "position_bias")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend causally, to what was kept before too; with one token a row, to what a mask shows."""
    asked = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if asked:
        raise ToolError(
            f"{type(module).__name__} asks for {asked[0]}, which the embedded runtime lacks",
            hint="serve this model with another runtime",
        )
    if query.shape[2] == 1:
        out = _decode(query, key, value, attention_mask, scaling)
    else:
        out = _causal(query, key, value, scaling)
    return out.transpose(1, 2), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    given, read = query.shape[2], key.shape[2]
    if read == given:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    ones = torch.ones(given, read, dtype=torch.bool, device=query.device)
    mask = ones.tril(read - given)  # the last token reads all, whatever was kept before
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Take the query heads that share a key head for its query positions: nothing is copied."""
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, width)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, 1, -1)


def register() -> None:
    """Make `attend` known to transformers under `NAME`."""
    AttentionInterface.register(NAME, attend)
