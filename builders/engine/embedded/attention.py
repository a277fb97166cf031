"""Attention as transformers' models call it: causal over whole sequences, or one token a row.

Two things that some models ask for beside that are computed here too: a window, over which
attention slides, and a cap, to which scores are bent.
"""

from functools import partial
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from builders.errors import ToolError

NAME: Final = "enginesmith"
# What some models pass beside the usual: attention that is not computed here.
_UNKNOWN: Final = ("s_aux", "position_bias")
_BLOCK: Final = 256  # queries at once, where every score is written down


class _Product(Protocol):
    """Weighs values by how well keys answer queries."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None
    ) -> Tensor:
        """Attend to where the mask is true; without one, to everything."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ANN401 - each model passes what it likes
) -> tuple[Tensor, None]:
    """Attend causally, to what was kept before too; with one token a row, to what a mask shows."""
    _refuse(module, kwargs)
    window, cap = _window(module, kwargs), kwargs.get("softcap")
    product: _Product = partial(scaled_dot_product_attention, scale=scaling)
    if cap is not None:
        product = partial(_capped, scale=scaling, cap=cap)
    if query.shape[2] == 1:
        out = _decode(query, key, value, attention_mask, window=window, product=product)
    elif cap is None and (window is None or window >= key.shape[2]):
        out = _causal(query, *_shared(query, key, value), scaling)
    else:
        out = _by_blocks(query, *_shared(query, key, value), window=window, product=product)
    return out.transpose(1, 2).contiguous(), None


def _refuse(module: nn.Module, kwargs: dict[str, Any]) -> None:
    asked = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if kwargs.get("is_causal", getattr(module, "is_causal", True)) is False:
        asked.append("attention to what comes later")
    if asked:
        raise ToolError(
            f"{type(module).__name__} asks for {asked[0]}, which the embedded runtime lacks",
            hint="serve this model with another runtime",
        )


def _window(module: nn.Module, kwargs: dict[str, Any]) -> int | None:
    """Some models pass their window here, some only say it in their configuration."""
    if "sliding_window" in kwargs:
        passed: int | None = kwargs["sliding_window"]
        return passed
    config: Any = getattr(module, "config", None)
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[getattr(module, "layer_idx", 0)] == "sliding_attention"
    return window if slides else None


def _shared(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the keys and values that query heads share."""
    shared = query.shape[1] // key.shape[1]
    if shared == 1:
        return key, value
    return key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    given, read = query.shape[2], key.shape[2]
    if read == given:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    ones = torch.ones(given, read, dtype=torch.bool, device=query.device)
    mask = ones.tril(read - given)  # the last token reads all, whatever was kept before
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _by_blocks(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, product: _Product
) -> Tensor:
    """Attend some queries at a time, to the keys that they reach: no mask is ever square."""
    given, read = query.shape[2], key.shape[2]
    places = torch.arange(read, device=query.device)
    reach = read if window is None else window
    made = []
    for begin in range(0, given, _BLOCK):
        end = min(begin + _BLOCK, given)
        own = places[begin + read - given : end + read - given, None]
        seen = slice(max(0, begin + read - given - reach + 1), end + read - given)
        mask = (places[seen] <= own) & (places[seen] > own - reach)
        made.append(
            product(query[:, :, begin:end], key[:, :, seen], value[:, :, seen], attn_mask=mask)
        )
    return torch.cat(made, 2)


def _decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    window: int | None,
    product: _Product,
) -> Tensor:
    """Take the query heads that share a key head for its query positions: nothing is copied."""
    rows, heads, _, width = query.shape
    if window is not None and mask is None:
        key, value = key[:, :, -window:], value[:, :, -window:]
    elif window is not None and mask is not None:
        places = torch.arange(mask.shape[-1], device=mask.device)
        mask = mask & (places >= mask.sum(-1, keepdim=True) - window)
    grouped = query.reshape(rows, key.shape[1], -1, width)
    return product(grouped, key, value, attn_mask=mask).reshape(rows, heads, 1, -1)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None,
    scale: float | None,
    cap: float,
) -> Tensor:
    """Bend scores before they become weights, in float32, which no fused product can."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.float() @ key.float().transpose(-1, -2) * factor
    scores = torch.tanh(scores / cap) * cap
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return (scores.softmax(-1) @ value.float()).to(query.dtype)


def register() -> None:
    """Make `attend` known to transformers under `NAME`."""
    AttentionInterface.register(NAME, attend)
