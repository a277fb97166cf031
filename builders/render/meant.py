"""ModelConfig messages in protobuf's JSON form, built from contracts and not from templates."""

from collections.abc import Iterable, Mapping
from typing import Final

from builders.render.contract import Contract, Tensor

Message = dict[str, object]

DECOUPLED: Final[Message] = {"model_transaction_policy": {"decoupled": True}}


def tensors(
    contract: Mapping[str, Tensor], names: Iterable[str], types: Mapping[str, str] | None = None
) -> list[Message]:
    """Return these tensors; ``types`` fills what the contract leaves open."""
    return [_tensor(name, contract[name], types or {}) for name in names]


def more(kinds: Mapping[str, tuple[str, int]], *, optional: bool) -> list[Message]:
    """Return one-dimensional tensors that no contract has."""
    flag: Message = {"optional": True} if optional else {}
    return [
        {"name": name, "data_type": kind, "dims": [dims], **flag}
        for name, (kind, dims) in kinds.items()
    ]


def without(names: Iterable[str], left_out: Mapping[str, str]) -> list[str]:
    """Return the names that are not left out."""
    return [name for name in names if name not in left_out]


def parameters(values: Mapping[str, str]) -> Message:
    """Return string parameters."""
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def instances(count: int, kind: str = "KIND_CPU") -> Message:
    """Return one group of instances."""
    return {"instance_group": [{"count": count, "kind": kind}]}


def queue(batch: int) -> Message:
    """Return batching as NVIDIA's models have it: no delay, no limit."""
    return {
        "dynamic_batching": {
            "preferred_batch_size": [batch],
            "max_queue_delay_microseconds": 0,
            "default_queue_policy": {"max_queue_size": 0},
        }
    }


def ensemble(contract: Contract, left_out: Mapping[str, Mapping[str, str]]) -> Message:
    """Return the steps of an ensemble, without what is left out of the models that they call."""
    made = set(without(contract.inputs, left_out["ensemble"]))
    steps = []
    for step in contract.steps:
        gone = left_out[step.model]
        inputs = {k: v for k, v in step.inputs.items() if k not in gone and v in made}
        outputs = {
            k: v
            for k, v in step.outputs.items()
            if k not in gone and (v.startswith("_") or v not in left_out["ensemble"])
        }
        made |= set(outputs.values())
        steps.append(
            {
                "model_name": step.model,
                "model_version": -1,
                "input_map": inputs,
                "output_map": outputs,
            }
        )
    return {"ensemble_scheduling": {"step": steps}}


def _tensor(name: str, tensor: Tensor, types: Mapping[str, str]) -> Message:
    made: Message = {
        "name": name,
        "data_type": types.get(tensor.data_type, tensor.data_type),
        "dims": list(tensor.dims),
    }
    if tensor.optional:
        made["optional"] = True
    if tensor.reshape is not None:
        made["reshape"] = {"shape": list(tensor.reshape)}
    if tensor.ragged:
        made["allow_ragged_batch"] = True
    return made
