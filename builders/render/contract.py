"""What NVIDIA's models at Triton take: parameters and tensors, as data (`contracts/*.json`).

Each file names its sources. The variants are held against it, and so is anybody's repository.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

FAMILIES: Final = ("inflight_batcher_llm", "llmapi", "vllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One string parameter: the template's variable, whether it must be set, what it may be."""

    variable: str
    required: bool
    choices: tuple[str, ...]
    fixed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output; ``data_type`` is a placeholder where the template leaves it open."""

    data_type: str
    dims: tuple[int, ...]
    optional: bool
    reshape: tuple[int, ...] | None
    ragged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One model: ``bare`` are the variables that stand outside of quotes and must be filled."""

    variables: tuple[str, ...]
    bare: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    steps: tuple[Step, ...]


@cache
def contracts(family: str) -> Mapping[str, Contract]:
    """Return the models of one family by name."""
    return {name: _contract(model) for name, model in document(family)["models"].items()}


@cache
def document(family: str) -> Mapping[str, Any]:
    """Return a family's whole file."""
    file = resources.files("builders.render") / "contracts" / f"{family}.json"
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def _contract(model: Mapping[str, Any]) -> Contract:
    return Contract(
        variables=tuple(model["variables"]),
        bare=tuple(model["bare"]),
        parameters={key: _parameter(entry) for key, entry in model["parameters"].items()},
        inputs={name: _tensor(entry) for name, entry in model["inputs"].items()},
        outputs={name: _tensor(entry) for name, entry in model["outputs"].items()},
        steps=tuple(
            Step(model=step["model_name"], inputs=step["input_map"], outputs=step["output_map"])
            for step in model.get("steps", ())
        ),
    )


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    return Parameter(
        variable=entry.get("variable", ""),
        required=entry.get("required", False),
        choices=tuple(entry.get("choices", ())),
        fixed=entry.get("fixed", ""),
    )


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    return Tensor(
        data_type=entry["data_type"],
        dims=tuple(entry["dims"]),
        optional=entry.get("optional", False),
        reshape=tuple(entry["reshape"]) if "reshape" in entry else None,
        ragged=entry.get("ragged", False),
    )
