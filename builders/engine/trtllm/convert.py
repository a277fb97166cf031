"""How ModelOpt exports a TensorRT-LLM checkpoint, as plain settings: the quantizer runs them later.

The call is ``modelopt.torch.export.export_tensorrt_llm_checkpoint`` (nvidia-modelopt 0.47.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from builders.engine.trtllm.settings import ALGORITHMS, DTYPES, BuildSettings
from builders.errors import PlanError, Refusal
from builders.formats import Format
from builders.parse import nearest

# decoder_type by the class that transformers loads: MODEL_NAME_TO_TYPE of modelopt/torch/export/
# model_utils.py in 0.47.0, for the decoders whose checkpoint trtllm-build takes. Mixtral is
# exported as a Llama with experts.
DECODERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "llama",
        "MixtralForCausalLM": "llama",
        "ArcticForCausalLM": "llama",
        "Qwen2ForCausalLM": "qwen",
        "Qwen3ForCausalLM": "qwen",
        "QWenLMHeadModel": "qwen",
        "Qwen3MoeForCausalLM": "qwen3moe",
        "GemmaForCausalLM": "gemma",
        "Gemma2ForCausalLM": "gemma2",
        "Gemma3ForCausalLM": "gemma3",
        "RecurrentGemmaForCausalLM": "recurrentgemma",
        "PhiForCausalLM": "phi",
        "Phi3ForCausalLM": "phi3",
        "Phi3SmallForCausalLM": "phi3small",
        "PhiMoEForCausalLM": "phi3",
        "GPT2LMHeadModel": "gpt",
        "Starcoder2ForCausalLM": "gpt",
        "NemotronForCausalLM": "gpt",
        "GPTJForCausalLM": "gptj",
        "FalconForCausalLM": "falcon",
        "RWForCausalLM": "falcon",
        "BaichuanForCausalLM": "baichuan",
        "MPTForCausalLM": "mpt",
        "BloomForCausalLM": "bloom",
        "ChatGLMModel": "chatglm",
        "DbrxForCausalLM": "dbrx",
        "InternLM2ForCausalLM": "internlm",
        "ExaoneForCausalLM": "exaone",
    }
)
# What the export writes as quant_algo (quant_utils.py of 0.47.0) and trtllm-build also reads.
EXPORTED: Final = (
    "", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "W4A16_AWQ", "W4A8_AWQ", "W8A16", "W8A8_SQ_PER_CHANNEL",
    "NVFP4", "MIXED_PRECISION",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The arguments of ModelOpt's export that are not the model and the directory."""

    decoder_type: str
    dtype: str
    inference_tensor_parallel: int
    inference_pipeline_parallel: int


def convert(settings: BuildSettings) -> Export:
    """Return the export settings; what ModelOpt cannot export is a `PlanError`."""
    refusals = export_refusals(settings)
    if refusals:
        raise PlanError(refusals)
    return Export(
        decoder_type=DECODERS[settings.architecture],
        dtype=DTYPES[settings.dtype or Format.BF16],
        inference_tensor_parallel=settings.tp,
        inference_pipeline_parallel=settings.pp,
    )


def export_refusals(settings: BuildSettings) -> tuple[Refusal, ...]:
    """Return why no TensorRT-LLM checkpoint can be exported; empty when one can."""
    found = []
    if settings.architecture not in DECODERS:
        found.append(
            Refusal(
                f"ModelOpt exports no TensorRT-LLM checkpoint of {settings.architecture}",
                f"{nearest(settings.architecture, DECODERS)} The llmapi lane loads the "
                "Hugging Face checkpoint as it is",
            )
        )
    if settings.quant_algo not in EXPORTED:
        assert settings.quant_algo in ALGORITHMS
        found.append(
            Refusal(
                f"no TensorRT-LLM checkpoint can hold {settings.quant_algo}",
                "use the llmapi lane, or a recipe such as fp8 or int4_awq",
            )
        )
    if settings.dtype is Format.FP32:
        found.append(
            Refusal("ModelOpt exports float16 and bfloat16, not float32", 'set dtype = "bf16"')
        )
    return tuple(found)
