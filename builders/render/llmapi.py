"""The repository of TensorRT-LLM's LLM API: one Python model, its arguments beside it.

NVIDIA's own repository says `decoupled` and `max_batch_size` in `model.yaml` only and relies on
auto-completion, which NVIDIA's own launcher turns off: then the first streamed answer hangs. Here
both files say both.
"""

from collections.abc import Mapping
from typing import Final

from builders.errors import UsageError
from builders.render import meant
from builders.render.context import Context
from builders.render.contract import contracts
from builders.render.model import Model

_CLIENT: Final = "a client would choose a file of the server"
_METRICS: Final = "returned as text where a number is declared; Triton's own metrics have times"
LEFT_OUT: Final[Mapping[str, str]] = {
    "sampling_param_best_of": "one answer a request",
    "sampling_param_return_perf_metrics": _METRICS,
    "stop": "a client that closes its stream cancels; the name is the stop strings' here",
    "image_url": "text only",
    **dict.fromkeys(("lora_id", "lora_name", "lora_path", "lora_ckpt_source"), _CLIENT),
    **dict.fromkeys(
        (
            "kv_cache_reused_block", "kv_cache_missed_block", "kv_cache_alloc_new_blocks",
            "kv_cache_alloc_total_blocks", "kv_cache_hit_rate", "arrival_time_ns",
            "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns",
            "acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens",
        ),
        _METRICS,
    ),
    "gpu_device_ids": "one instance: it takes the GPUs that it sees",
}  # fmt: skip
# The names that every repository of ours has, whatever runs behind it.
INPUTS: Final = {
    "max_tokens": ("TYPE_INT32", 1),
    "stream": ("TYPE_BOOL", 1),
    "temperature": ("TYPE_FP32", 1),
    "top_p": ("TYPE_FP32", 1),
    "top_k": ("TYPE_INT32", 1),
    "seed": ("TYPE_UINT64", 1),
    "stop": ("TYPE_STRING", -1),
    "ignore_eos": ("TYPE_BOOL", 1),
}
OUTPUTS: Final = {"token_ids": ("TYPE_INT32", -1), "token_count": ("TYPE_INT32", 1)}


def models(context: Context) -> tuple[Model, ...]:
    """Return the one model; its checkpoint lies in its version directory."""
    if context.llmapi is None:
        raise UsageError("the llmapi repository needs the LLM API's arguments")
    contract = contracts("llmapi")["tensorrt_llm"]
    inputs, outputs = (
        meant.without(names, LEFT_OUT) for names in (contract.inputs, contract.outputs)
    )
    config = {
        "name": context.name,
        "backend": "python",
        "max_batch_size": 0,
        "input": meant.tensors(contract.inputs, inputs) + meant.more(INPUTS, optional=True),
        "output": meant.tensors(contract.outputs, outputs) + meant.more(OUTPUTS, optional=False),
        **meant.DECOUPLED,
        **meant.instances(1),
        **meant.parameters(
            {
                "engine_digest": context.engine_digest,
                "max_tokens": str(context.max_tokens),
                "enginesmith": context.enginesmith,
            }
        ),
    }
    return (
        Model(
            name=context.name,
            templates={
                "config.pbtxt": "llmapi/config.pbtxt.j2",
                "1/model.yaml": "llmapi/model.yaml.j2",
            },
            programs={"1/model.py": "llmapi"},
            engine="1/engine",
            meant=config,
        ),
    )
