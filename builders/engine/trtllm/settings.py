"""What both lanes are told: formats, limits, parallelism, architecture; and which names are safe.

Knows TensorRT-LLM's names for formats. Reads no files.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from builders.errors import UsageError
from builders.formats import UNQUANTIZED, Format
from builders.ledger import algorithm
from builders.recipe import Recipe
from builders.tiers import Tier

BF16: Final = Format.BF16

# The formats behind each QuantAlgo (tensorrt_llm/quantization/mode.py, commit not recorded): of the
# weights and of the activations. MIXED_PRECISION says per layer, in quant_cfg.json.
ALGORITHMS: Final[Mapping[str, tuple[Format, Format] | None]] = MappingProxyType(
    {
        "": (BF16, BF16),
        "W8A16": (Format.INT8, BF16),
        "W8A16_GPTQ": (Format.INT8, BF16),
        "W4A16": (Format.INT4, BF16),
        "W4A16_AWQ": (Format.INT4, BF16),
        "W4A16_GPTQ": (Format.INT4, BF16),
        "W4A8_AWQ": (Format.INT4, Format.FP8),
        "W8A8_SQ_PER_CHANNEL": (Format.INT8, Format.INT8),
        "W8A8_SQ_PER_TENSOR_PLUGIN": (Format.INT8, Format.INT8),
        "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": (Format.INT8, Format.INT8),
        "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN": (Format.INT8, Format.INT8),
        "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN": (Format.INT8, Format.INT8),
        "W4A8_QSERVE_PER_GROUP": (Format.INT4, Format.INT8),
        "W4A8_QSERVE_PER_CHANNEL": (Format.INT4, Format.INT8),
        "FP8": (Format.FP8, Format.FP8),
        "FP8_PER_CHANNEL_PER_TOKEN": (Format.FP8, Format.FP8),
        "FP8_BLOCK_SCALES": (Format.FP8, Format.FP8),
        "INT8": (Format.INT8, Format.INT8),
        "MXFP8": (Format.MXFP8, Format.MXFP8),
        "NVFP4": (Format.NVFP4, Format.NVFP4),
        "W4A8_NVFP4_FP8": (Format.NVFP4, Format.FP8),
        "W4A16_MXFP4": (Format.MXFP4, BF16),
        "W4A8_MXFP4_FP8": (Format.MXFP4, Format.FP8),
        "W4A8_MXFP4_MXFP8": (Format.MXFP4, Format.MXFP8),
        "MIXED_PRECISION": None,
    }
)
KV_ALGORITHMS: Final[Mapping[str, Format]] = MappingProxyType(
    {"": BF16, "FP8": Format.FP8, "INT8": Format.INT8, "NVFP4": Format.NVFP4}
)
DTYPES: Final[Mapping[Format, str]] = MappingProxyType(
    {Format.BF16: "bfloat16", Format.FP16: "float16", Format.FP32: "float32"}
)
# What ModelOpt declares and TensorRT-LLM reads under another name
# (tensorrt_llm/quantization/modelopt_config.py@2edf354d).
_DECLARED: Final = {"NO_QUANT": "", "FP8_PB_WO": "FP8_BLOCK_SCALES", "MXFP4": "W4A16_MXFP4"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PLAIN: Final = frozenset("/._-+=@,:~% ()[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What an engine is made for: the GPU's compute capability, formats, limits, parallelism.

    ``quant_algo`` is TensorRT-LLM's own name, "" for unquantized weights. ``dtype`` is the format
    of what is not quantized, None the checkpoint's own. ``max_num_tokens`` 0 asks for the tuned
    one. ``overrides`` are trtllm-build flags that win over the tuned ones, without dashes.
    """

    architecture: str
    sm: int
    weights: Format = BF16
    activations: Format = BF16
    kv_cache: Format = BF16
    quant_algo: str = ""
    dtype: Format | None = None
    tp: int = 1
    pp: int = 1
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int = 0
    max_input_len: int = 0
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        name(self.architecture, "the architecture")
        for what in ("tp", "pp", "max_batch_size", "max_seq_len"):
            if getattr(self, what) < 1:
                raise UsageError(
                    f"{what} must be at least 1, not {getattr(self, what)}",
                    hint="mend [target] and [serve]",
                )
        if self.max_num_tokens < 0 or self.max_input_len < 0:
            raise UsageError("max_num_tokens and max_input_len cannot be negative", hint="0: tuned")
        if self.quant_algo not in ALGORITHMS:
            raise UsageError(
                f"{self.quant_algo} is no algorithm of TensorRT-LLM",
                hint=f"known: {', '.join(filter(None, ALGORITHMS))}",
            )
        if self.dtype is not None and self.dtype not in UNQUANTIZED:
            raise UsageError(
                f"{self.dtype.value} is no format to compute in",
                hint=f"choose {', '.join(sorted(str(fmt.value) for fmt in UNQUANTIZED))}",
            )

    @classmethod
    def of(
        cls, recipe: Recipe, tier: Tier, *, architecture: str, context: int, concurrency: int
    ) -> Self:
        """Take the formats from a recipe, the GPU from a tier, the limits from what is served."""
        return cls(
            architecture=architecture,
            sm=tier.sm,
            weights=recipe.weights,
            activations=recipe.activations,
            kv_cache=recipe.kv_cache,
            quant_algo=quant_algo(recipe),
            max_batch_size=concurrency,
            max_seq_len=context,
        )

    @property
    def world(self) -> int:
        """The number of ranks, which is the number of engines."""
        return self.tp * self.pp


def quant_algo(recipe: Recipe) -> str:
    """Return TensorRT-LLM's name for what a recipe's export declares."""
    declared = algorithm(recipe)
    found = _DECLARED.get(declared.name, declared.name) if declared else None
    if found is None or found not in ALGORITHMS:
        what = declared.name if declared else f"{recipe.weights.value} by {recipe.backend}"
        raise UsageError(
            f"TensorRT-LLM cannot read what {recipe.name} declares ({what})",
            hint="enginesmith matrix says where it runs",
        )
    return found


def name(text: str, what: str) -> str:
    """Return a name that is safe anywhere; anything else is a `UsageError`."""
    if not _NAME.fullmatch(text) or ".." in text:
        raise UsageError(
            f"{what} cannot be {text!r}",
            hint="letters, digits, dot, dash and underscore, no more than 128, a letter first",
        )
    return text


def path(where: Path, what: str) -> str:
    """Return an absolute path that cannot be read as an option, or escape from YAML or a shell.

    trtllm-build takes a checkpoint whose path ends in .json for a configuration file and then
    builds an engine without weights (commands/build.py@65f1d153), so such a path is refused too.
    """
    text = str(where)
    plain = all(character.isalnum() or character in _PLAIN for character in text)
    if not text or text.startswith("-") or ".." in where.parts or not plain:
        raise UsageError(
            f"{what} cannot be {text!r}",
            hint="rename it: letters, digits and a few signs, no .. and no leading dash",
        )
    absolute = os.path.abspath(where)  # noqa: PTH100 - links stay as the user named them
    if absolute.lower().endswith(".json") and what == "the checkpoint":
        raise UsageError(
            f"{what} cannot be {text!r}: trtllm-build would take it for a configuration file",
            hint="rename the directory",
        )
    return absolute
