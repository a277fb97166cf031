"""The repository of the embedded runtime: one model behind Triton's Python backend."""

from collections.abc import Mapping
from typing import Final

from builders.render.context import Context
from builders.render.model import Model

_INPUTS: Final = {
    "text_input": ("TYPE_STRING", 1),
    "max_tokens": ("TYPE_INT32", 1),
    "stream": ("TYPE_BOOL", 1),
    "temperature": ("TYPE_FP32", 1),
    "top_p": ("TYPE_FP32", 1),
    "top_k": ("TYPE_INT32", 1),
    "seed": ("TYPE_UINT64", 1),
    "stop": ("TYPE_STRING", -1),
    "ignore_eos": ("TYPE_BOOL", 1),
}
_OUTPUTS: Final = {
    "text_output": ("TYPE_STRING", 1),
    "token_ids": ("TYPE_INT32", -1),
    "logprobs": ("TYPE_FP32", -1),
    "token_count": ("TYPE_INT32", 1),
    "finish_reason": ("TYPE_STRING", 1),
}
_REQUIRED: Final = {"text_input"}


def models(context: Context) -> tuple[Model, ...]:
    """Return the one model; its engine lies in its version directory."""
    return (
        Model(
            name=context.name,
            templates={
                "config.pbtxt": "embedded/config.pbtxt.j2",
                "1/model.py": "embedded/model.py.j2",
            },
            engine="1/engine",
            meant=_meant(context),
        ),
    )


def _meant(context: Context) -> Mapping[str, object]:
    parameters = {
        "engine": "engine",
        "engine_digest": context.engine_digest,
        "context": str(context.context),
        "concurrency": str(context.concurrency),
        "max_tokens": str(context.max_tokens),
        "enginesmith": context.enginesmith,
    }
    where = {"kind": "KIND_GPU", "gpus": [0]} if context.gpu else {"kind": "KIND_CPU"}
    return {
        "name": context.name,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [
            _tensor(name, *kind) | ({} if name in _REQUIRED else {"optional": True})
            for name, kind in _INPUTS.items()
        ],
        "output": [_tensor(name, *kind) for name, kind in _OUTPUTS.items()],
        "instance_group": [{"count": 1, **where}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def _tensor(name: str, data_type: str, dims: int) -> dict[str, object]:
    return {"name": name, "data_type": data_type, "dims": [dims]}
