"""The repository of a compiled TensorRT-LLM engine: five models, text in and text out.

The model that carries the release's name calls the other parts and streams text; `ensemble` is what
clients of NVIDIA's own repository know. Paths are relative to the repository, in which the server
is started. Every parameter of NVIDIA's templates is set here or left out here, with the reason.
"""

from collections.abc import Mapping
from typing import Final

from builders.errors import UsageError
from builders.render import meant
from builders.render.context import Compiled, Context
from builders.render.contract import contracts
from builders.render.llmapi import INPUTS, OUTPUTS
from builders.render.model import Model

FAMILY: Final = "inflight_batcher_llm"
PARTS: Final = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble")
ENGINE: Final = "tensorrt_llm/1/engine"
TOKENIZER: Final = f"{ENGINE}/tokenizer"
_TYPES: Final = {
    "${encoder_input_features_data_type}": "TYPE_FP16",
    "${logits_datatype}": "TYPE_FP32",
    "${prompt_embedding_table_data_type}": "TYPE_FP16",
}
_IMAGES: Final = "text only"
_ENCODER: Final = "decoders only"
_DEFAULT: Final = "the backend's own default"
_DRAFT: Final = "no speculative decoding is planned for compiled engines"
_LORA: Final = "no adapters are planned for compiled engines"
_ORCHESTRATOR: Final = "one process a rank, each with the GPU that it sees"
_GUIDED: Final = "no guided decoding is planned for compiled engines"
_LOGITS: Final = "a row of the vocabulary for each token: measured elsewhere, not served"
_ONE: Final = "one answer a request"
_PROMPT_TABLE: Final = "no prompt tuning is planned for compiled engines"

PARAMETERS_LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "preprocessing": {
        "multimodal_model_path": _IMAGES,
        "gpt_model_path": _IMAGES,
        "max_num_images": _IMAGES,
        "hf_model_path": _IMAGES,
    },
    "tensorrt_llm": {
        "encoder_model_path": _ENCODER,
        "cross_kv_cache_fraction": _ENCODER,
        "max_tokens_in_paged_kv_cache": "the share of free memory decides",
        "max_attention_window_size": "the engine's own window",
        "sink_token_length": _DEFAULT,
        "kv_cache_host_memory_bytes": "nothing is moved to the host's memory",
        "kv_cache_onboard_blocks": "internal to the backend",
        "stats_check_period_ms": _DEFAULT,
        "iter_stats_max_iterations": _DEFAULT,
        "request_stats_max_iterations": _DEFAULT,
        "normalize_log_probs": _DEFAULT,
        "gpu_device_ids": _ORCHESTRATOR,
        "participant_ids": _ORCHESTRATOR,
        "num_nodes": "one host",
        **dict.fromkeys(
            (
                "lora_cache_optimal_adapter_size", "lora_cache_max_adapter_size",
                "lora_cache_gpu_memory_fraction", "lora_cache_host_memory_bytes",
                "lora_prefetch_dir",
            ),
            _LORA,
        ),
        "decoding_mode": "top-k and top-p, as the requests say",
        **dict.fromkeys(
            (
                "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size",
                "medusa_choices", "eagle_choices", "speculative_decoding_fast_logits",
            ),
            _DRAFT,
        ),
        "gpu_weights_percent": "the engine is built without weight streaming",
        "enable_context_fmha_fp32_acc": _DEFAULT,
        "multi_block_mode": _DEFAULT,
        "cuda_graph_mode": _DEFAULT,
        "cuda_graph_cache_size": _DEFAULT,
        **dict.fromkeys(
            ("tokenizer_dir", "guided_decoding_backend", "xgrammar_tokenizer_info_path"), _GUIDED
        ),
        "enable_trt_overlap": "removed: active in some versions only",
    },
    "postprocessing": {},
    "ensemble": {},
    "tensorrt_llm_bls": {
        "tensorrt_llm_draft_model_name": _DRAFT,
        "multimodal_encoders_name": _IMAGES,
        "accumulate_tokens": "this model decodes what is certain by itself",
    },
}  # fmt: skip

_PREPROCESSING: Final = {
    "DECODER_QUERY": _ENCODER,
    **dict.fromkeys(("IMAGE_BYTES", "IMAGE_URL", "VIDEO_BYTES", "IMAGES"), _IMAGES),
    **dict.fromkeys(("EMBEDDING_BIAS_WORDS", "EMBEDDING_BIAS_WEIGHTS", "EMBEDDING_BIAS"), _ONE),
    **dict.fromkeys(("PROMPT_TABLE_EXTRA_ID", "OUT_PROMPT_TABLE_EXTRA_IDS"), _PROMPT_TABLE),
    **dict.fromkeys(("DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN"), _ENCODER),
    **dict.fromkeys(
        (
            "PIXEL_VALUES", "ASPECT_RATIO_IDS", "ASPECT_RATIO_MASK", "CROSS_ATTENTION_MASK",
            "IMAGE_SIZES", "IS_VIDEO_INPUT", "ATTENTION_MASK", "IMAGE_GRID_THW", "VISION_INPUT_ID",
        ),
        _IMAGES,
    ),
}  # fmt: skip
_ENSEMBLE: Final = {
    "decoder_text_input": _ENCODER,
    **dict.fromkeys(("num_return_sequences", "beam_width"), _ONE),
    **dict.fromkeys(("return_context_logits", "return_generation_logits"), _LOGITS),
    **dict.fromkeys(("context_logits", "generation_logits"), _LOGITS),
    **dict.fromkeys(
        ("prompt_embedding_table", "prompt_table_extra_id", "prompt_vocab_size"), _PROMPT_TABLE
    ),
    **dict.fromkeys(
        ("embedding_bias_words", "embedding_bias_weights"),
        "words have more than one token; bad_words forbids them",
    ),
    **dict.fromkeys(("lora_task_id", "lora_weights", "lora_config"), _LORA),
    **dict.fromkeys(("guided_decoding_guide_type", "guided_decoding_guide"), _GUIDED),
}
_TOLD: Final = "the ensemble tells it"
_BLS: Final = _ENSEMBLE | {
    **dict.fromkeys(
        ("image_input", "image_bytes_input", "image_url_input", "video_bytes_input"), _IMAGES
    ),
    **dict.fromkeys(("num_draft_tokens", "use_draft_logits"), _DRAFT),
    **dict.fromkeys(("exclude_input_in_output", "end_id", "pad_id"), _TOLD),
    **dict.fromkeys(
        (
            "return_log_probs", "return_perf_metrics", "return_num_input_tokens",
            "return_num_output_tokens", "cum_log_probs", "output_log_probs", "batch_index",
            "sequence_index", "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks",
            "kv_cache_alloc_total_blocks", "arrival_time_ns", "first_scheduled_time_ns",
            "first_token_time_ns", "last_token_time_ns", "acceptance_rate",
            "total_accepted_draft_tokens", "total_draft_tokens", "num_input_tokens",
            "num_output_tokens",
        ),
        _TOLD,
    ),
}  # fmt: skip
TENSORS_LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "preprocessing": _PREPROCESSING,
    "tensorrt_llm": {},
    "postprocessing": {},
    "ensemble": _ENSEMBLE,
    "tensorrt_llm_bls": _BLS,
}
_MORE_INPUTS: Final = {name: INPUTS[name] for name in ("stop", "ignore_eos")}
_MORE_OUTPUTS: Final = OUTPUTS | {"finish_reason": ("TYPE_STRING", 1)}


def models(context: Context) -> tuple[Model, ...]:
    """Return the five models; the engine and its tokenizer lie in ``tensorrt_llm``."""
    compiled = context.compiled
    if compiled is None:
        raise UsageError("the inflight_batcher_llm repository needs the engine's limits")
    if context.name in PARTS:
        raise UsageError(
            f"serve.name {context.name!r} is one of the repository's parts",
            hint="choose another name; tensorrt_llm_bls is what NVIDIA calls this model",
        )
    programs = {"preprocessing": "preprocessing", "postprocessing": "postprocessing"}
    named = {part: part for part in PARTS} | {"tensorrt_llm_bls": context.name}
    return tuple(
        Model(
            name=name,
            templates=_templates(part),
            programs={"1/model.py": programs[part]} if part in programs else _bls(part),
            engine="1/engine" if part == "tensorrt_llm" else "",
            meant={"name": name, **_config(part, context, compiled)},
        )
        for part, name in named.items()
    )


def _templates(part: str) -> dict[str, str]:
    config = {"config.pbtxt": f"{FAMILY}/{part}.pbtxt.j2"}
    # Triton wants a version directory, and one without files of its own is lost in the store.
    bare = part in {"ensemble", "tensorrt_llm"}
    return config | ({"1/README": f"{FAMILY}/README.j2"} if bare else {})


def _bls(part: str) -> dict[str, str]:
    return {"1/model.py": "bls"} if part == "tensorrt_llm_bls" else {}


def _config(part: str, context: Context, compiled: Compiled) -> meant.Message:
    contract, gone = contracts(FAMILY)[part], TENSORS_LEFT_OUT[part]
    inputs, outputs = (meant.without(names, gone) for names in (contract.inputs, contract.outputs))
    base: meant.Message = {
        "max_batch_size": compiled.batch,
        "input": meant.tensors(contract.inputs, inputs, _TYPES),
        "output": meant.tensors(contract.outputs, outputs, _TYPES),
    }
    return base | _own(part, context, compiled, base)


def _own(part: str, context: Context, compiled: Compiled, base: meant.Message) -> meant.Message:
    """Return what one part has besides, or otherwise."""
    tokenizers = meant.instances(compiled.tokenizers)
    said = parameters(part, context, compiled)
    values = meant.parameters(said) if said else {}
    if part == "ensemble":
        return {
            "platform": "ensemble",
            **meant.ensemble(contracts(FAMILY)[part], TENSORS_LEFT_OUT),
        }
    if part == "tensorrt_llm":
        queue = meant.queue(compiled.batch)
        return {
            "backend": "tensorrtllm",
            **meant.DECOUPLED,
            **queue,
            **meant.instances(1),
            **values,
        }
    if part == "tensorrt_llm_bls":
        inputs, outputs = base["input"], base["output"]
        assert isinstance(inputs, list)
        assert isinstance(outputs, list)
        return {
            "backend": "python",
            "max_batch_size": 0,
            **meant.DECOUPLED,
            **meant.instances(compiled.batch),
            "input": _one_prompt(inputs) + meant.more(_MORE_INPUTS, optional=True),
            "output": outputs + meant.more(_MORE_OUTPUTS, optional=False),
            **values,
        }
    queue = meant.queue(compiled.batch) if part == "preprocessing" else {"dynamic_batching": {}}
    return {"backend": "python", **queue, **tokenizers, **values}


def _one_prompt(inputs: list[meant.Message]) -> list[meant.Message]:
    """Only a prompt is needed, as in every repository of ours."""
    return [
        tensor | ({"optional": True} if tensor["name"] == "max_tokens" else {}) for tensor in inputs
    ]


def parameters(part: str, context: Context, compiled: Compiled) -> dict[str, str]:
    """Return the string parameters of a part, as they are set."""
    paged = "true" if compiled.paged_context else "false"
    tables = {
        "preprocessing": {"tokenizer_dir": TOKENIZER, "add_special_tokens": "true"},
        "tensorrt_llm": {
            "max_beam_width": "1",
            "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
            "gpt_model_type": "inflight_fused_batching",
            "gpt_model_path": ENGINE,
            "batch_scheduler_policy": "guaranteed_no_evict",
            "kv_cache_free_gpu_mem_fraction": str(compiled.kv_fraction),
            "exclude_input_in_output": "true",
            "cancellation_check_period_ms": "100",
            "enable_kv_cache_reuse": paged,
            "enable_chunked_context": paged,
            "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
            "engine_digest": context.engine_digest,
            "enginesmith": context.enginesmith,
        },
        "postprocessing": {"tokenizer_dir": TOKENIZER, "skip_special_tokens": "true"},
        "tensorrt_llm_bls": {
            "tensorrt_llm_model_name": "tensorrt_llm",
            "max_tokens": str(context.max_tokens),
        },
    }
    return tables.get(part, {})
