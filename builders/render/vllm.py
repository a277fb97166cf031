"""The repository of Triton's vLLM backend: one model, vLLM's arguments beside it.

The backend fills in the tensors itself where auto-completion is on; here the configuration says
them all, so that it also loads with auto-completion off.
"""

from collections.abc import Mapping
from typing import Final

from builders.errors import UsageError
from builders.render import meant
from builders.render.context import Context
from builders.render.contract import contracts
from builders.render.model import Model

LEFT_OUT: Final[Mapping[str, str]] = {
    "image": "text only",
    "embedding_request": "reserved for NVIDIA's OpenAI front end",
    "REPORT_CUSTOM_METRICS": "turns vLLM's separate process off",
    "ENABLE_VLLM_HEALTH_CHECK": "asks the engine at each look at its health",
    "GPU_DEVICE_IDS": "one instance: it takes the GPUs that it sees",
}


def models(context: Context) -> tuple[Model, ...]:
    """Return the one model; its checkpoint lies in its version directory."""
    if context.vllm is None:
        raise UsageError("the vllm repository needs vLLM's arguments")
    contract = contracts("vllm")["vllm"]
    inputs, outputs = (
        meant.without(names, LEFT_OUT) for names in (contract.inputs, contract.outputs)
    )
    config = {
        "name": context.name,
        "backend": "vllm",
        "max_batch_size": 0,
        "input": meant.tensors(contract.inputs, inputs),
        "output": meant.tensors(contract.outputs, outputs),
        **meant.DECOUPLED,
        **meant.instances(1, "KIND_MODEL"),
        **meant.parameters(
            {"engine_digest": context.engine_digest, "enginesmith": context.enginesmith}
        ),
    }
    return (
        Model(
            name=context.name,
            templates={
                "config.pbtxt": "vllm/config.pbtxt.j2",
                "1/model.json": "vllm/model.json.j2",
            },
            engine="1/engine",
            meant=config,
        ),
    )
