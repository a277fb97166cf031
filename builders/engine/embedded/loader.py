"""Read a checkpoint into a transformers module, strictly, and without transformers' own reader.

That reader knows nothing of ModelOpt's scales: it drops them and takes FP8 codes for weights.
Here the module is made empty from `config.json`; every tensor of the file is used, every
parameter is filled, or a `ToolError` names the one that is not.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from builders.checkpoint import Checkpoint
from builders.engine.description import EngineSettings
from builders.engine.embedded import attention, experts
from builders.engine.embedded.cache import ROUNDINGS, Cache, KvScale, KvScales, Passing, Slots
from builders.engine.embedded.declaration import KV_PARTS, Declaration
from builders.engine.embedded.layers import Layers, tied_weights
from builders.engine.embedded.linear import Memory
from builders.engine.embedded.names import Names
from builders.engine.embedded.tensors import Tensors
from builders.errors import ToolError
from builders.formats import Format

DTYPES: Final = {
    Format.BF16: torch.bfloat16, Format.FP16: torch.float16, Format.FP32: torch.float32,
}  # fmt: skip
_IS_ATTENTION: Final = re.compile(r"(attn|attention)[^.]*$")
_ATTENTION: Final = frozenset({"full_attention", "sliding_attention"})
_ELSEWHERE: Final = "serve this model with another runtime"
_HINT: Final = "the embedded runtime runs the causal language models that transformers ships"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loaded:
    """A module ready to compute, its KV cache's scales, and the memory its layers share."""

    module: nn.Module
    config: Any
    dtype: torch.dtype
    device: torch.device
    kv_scales: KvScales
    memory: Memory

    @property
    def vocabulary(self) -> int:
        """How many tokens the model chooses from."""
        return int(self.config.get_text_config().vocab_size)

    def logits(
        self, tokens: Tensor, positions: Tensor, cache: Cache, *, last: bool = False
    ) -> Tensor:
        """Compute float32 logits of tokens that stand at these positions, of the last one only."""
        found: Tensor = self.module(
            input_ids=tokens,
            attention_mask=cache.mask(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if last else 0,
        ).logits
        return found.float()


def load(path: Path, settings: EngineSettings, device: torch.device) -> Loaded:
    """Read the checkpoint in ``path`` for computing on ``device``."""
    checkpoint = Checkpoint.open(path)
    declaration = Declaration.read(checkpoint)
    config = _config(checkpoint)
    dtype = DTYPES[settings.dtype] if settings.dtype else _own_dtype(config)
    module = _empty(checkpoint, config, dtype)
    names, memory = Names(module, checkpoint.tensors), Memory()
    with Tensors(checkpoint, device) as tensors:
        tensors.leave(getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ())
        layers = Layers(tensors, declaration, dtype, memory)
        kv_scales = _kv_scales(module, tensors, settings, dtype)
        experts.replace(module, layers, tensors, names)
        _replace_linears(module, layers, names)
        _fill(module, tensors, names, dtype)
    _restore_buffers(module, device, checkpoint)
    loaded = Loaded(
        module=module.eval().requires_grad_(requires_grad=False),
        config=config,
        dtype=dtype,
        device=device,
        kv_scales=kv_scales,
        memory=memory,
    )
    _try_out(loaded, checkpoint)
    return loaded


@torch.inference_mode()
def _try_out(loaded: Loaded, checkpoint: Checkpoint) -> None:
    """Compute a few tokens, so that a model which cannot run is refused here, not in service."""
    cache = Slots(loaded.kv_scales, slots=2, context=3)
    tokens = torch.zeros((2, 2), dtype=torch.long, device=loaded.device)
    places = torch.arange(2, device=loaded.device).expand(2, 2)
    try:
        loaded.logits(tokens, places, Passing(loaded.kv_scales))
        for row in range(2):
            cache.begin(row)
            loaded.logits(tokens[:1], places[:1], cache, last=True)
        loaded.logits(tokens[:, :1], cache.advance([2, 2], loaded.device), cache, last=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ToolError(
            f"{checkpoint.path}: the embedded runtime cannot run {checkpoint.architecture} "
            f"({error})",
            hint=_ELSEWHERE,
        ) from error


def _config(checkpoint: Checkpoint) -> Any:  # noqa: ANN401 - untyped
    file = checkpoint.path / "config.json"
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ToolError(f"{file}: transformers cannot read it ({error})", hint=_HINT) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    _check_attention(file, config.get_text_config())
    return config


def _check_attention(file: Path, config: Any) -> None:  # noqa: ANN401 - transformers is untyped
    other = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if other:
        raise ToolError(
            f"{file}: has layers of {min(other)}, which the embedded runtime lacks",
            hint=_ELSEWHERE,
        )


def _own_dtype(config: Any) -> torch.dtype:  # noqa: ANN401 - transformers is untyped
    dtype = config.dtype
    return dtype if dtype in DTYPES.values() else torch.bfloat16


def _empty(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> nn.Module:  # noqa: ANN401
    attention.register()
    try:
        with torch.device("meta"):
            module: nn.Module = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention.NAME, trust_remote_code=False
            )
    except (ValueError, KeyError, TypeError, ImportError) as error:
        if error.args == (attention.NAME,):  # a table of its own, in which ours is not
            raise _old_way(checkpoint) from error
        raise ToolError(
            f"{checkpoint.path}: transformers cannot make a {checkpoint.architecture} ({error})",
            hint=_HINT,
        ) from error
    if not getattr(module, "_supports_attention_backend", False):
        raise _old_way(checkpoint)
    return module


def _old_way(checkpoint: Checkpoint) -> ToolError:
    return ToolError(
        f"{checkpoint.path}: transformers computes the attention of {checkpoint.architecture} in "
        "its own old way, without the cache used here",
        hint=_ELSEWHERE,
    )


def _replace_linears(module: nn.Module, layers: Layers, names: Names) -> None:
    head = module.get_output_embeddings()  # type: ignore[operator] # a transformers module
    tied = tied_weights(module)
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for name, empty in found:
        stored, shared = names.stored(f"{name}.weight"), tied.get(f"{name}.weight")
        read = layers.read(
            stored.removesuffix(".weight"),
            empty,
            tied=shared and names.stored(shared),
            logits=empty is head,
        )
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, read)


def _fill(module: nn.Module, tensors: Tensors, names: Names, dtype: torch.dtype) -> None:
    """Fill what is no linear layer: embeddings, norms, persistent buffers."""
    for name, empty in module.state_dict(keep_vars=True).items():
        stored = names.stored(name)
        found = tensors[stored]
        tensors.expect(stored, found.shape, empty.shape)
        value = found.to(dtype, copy=True) if found.is_floating_point() else found.clone()
        if isinstance(empty, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        value._is_hf_initialized = True  # type: ignore[attr-defined] # noqa: SLF001 - see below
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, value)


def _restore_buffers(module: nn.Module, device: torch.device, checkpoint: Checkpoint) -> None:
    """Compute what no file holds (rotary frequencies) the way transformers does after loading.

    Done twice over different contents: what comes out different was not computed at all.
    """
    for owner in module.modules():
        lost = [n for n, b in owner.named_buffers(recurse=False) if b.device.type == "meta"]
        first, second = (_initialized(module, owner, lost, fill, device) for fill in (0, 1))
        for name in lost:
            if not torch.equal(first[name], second[name]):
                raise ToolError(
                    f"{checkpoint.path}: nothing computes {name} of {type(owner).__name__}",
                    hint="the embedded runtime does not know this architecture",
                )


def _initialized(
    module: nn.Module, owner: nn.Module, names: Sequence[str], fill: int, device: torch.device
) -> dict[str, Tensor]:
    """Parameters are marked as loaded, so that initializing an owner leaves them alone."""
    for name in names:
        empty = owner.get_buffer(name)
        setattr(owner, name, torch.full(empty.shape, fill, dtype=empty.dtype, device=device))
    if names:
        module._init_weights(owner)  # type: ignore[operator] # noqa: SLF001 - transformers' own
    return {name: owner.get_buffer(name).clone() for name in names}


def _kv_scales(
    module: nn.Module, tensors: Tensors, settings: EngineSettings, dtype: torch.dtype
) -> KvScales:
    """Find every layer's scales; a cache without any has scale 1, as ModelOpt's `fp8_cast`."""
    kind = settings.kv_cache
    if kind not in ROUNDINGS:
        return {}
    attentions = list(_attentions(module))
    if not any(name.endswith(KV_PARTS) for name in tensors.checkpoint.tensors):
        return {index: (KvScale(scale=1.0, kind=kind),) * 2 for _, index in attentions}
    return {
        index: (
            _kv_scale(tensors, name, "k", kind, dtype),
            _kv_scale(tensors, name, "v", kind, dtype),
        )
        for name, index in attentions
    }


def _attentions(module: nn.Module) -> Iterator[tuple[str, int]]:
    for name, part in module.named_modules():
        if hasattr(part, "layer_idx") and _IS_ATTENTION.search(name):
            yield name, int(part.layer_idx)


def _kv_scale(tensors: Tensors, name: str, which: str, kind: Format, dtype: torch.dtype) -> KvScale:
    """ModelOpt names a scale below its projection, compressed-tensors below the attention."""
    said = f"{name}.{which}_proj.{which}"
    bias = tensors[f"{said}_bias"].to(dtype) if f"{said}_bias" in tensors else None
    other = f"{name}.{which}_scale"
    scale = tensors[other if other in tensors else f"{said}_scale"]
    return KvScale(scale=float(scale), bias=bias, kind=kind)
