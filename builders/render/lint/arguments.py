"""The files beside a Python model: the LLM API's `model.yaml` and vLLM's `model.json`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from builders.render.contract import document
from builders.render.lint.finding import Finding, Severity
from builders.render.lint.nvidia import lists
from builders.render.lint.repository import Model, Repository, Table, read_json, read_yaml

_YAML: Final = "1/model.yaml"
_JSON: Final = "1/model.json"


def llm_api(_: Repository, model: Model) -> Iterator[Finding]:
    """Both files of an LLM API model say the same, and the LLM API takes what it is told."""
    file = model.home / _YAML
    if model.backend != "python" or not file.is_file():
        return
    try:
        table = read_yaml(file)
    except ValueError as error:
        yield _in(model, _YAML, "syntax", f"cannot be read: {error}", "write it anew")
        return
    yield from _triton_config(model, table)
    for key in document("llmapi")["stale"]:
        if key in table.values:
            what = f"{key} was retired: TensorRT-LLM refuses to start with it"
            yield _in(model, _YAML, "argument", what, "leave it out", line=table.lines[key])
    yield from _model(model, table.values, _YAML, table.lines.get("model", 0))
    yield from _gpus(model, table)


def _triton_config(model: Model, table: Table) -> Iterator[Finding]:
    said = table.values.get("triton_config")
    said = said if isinstance(said, Mapping) else {}
    here = table.lines.get("triton_config", 0)
    for key in document("llmapi")["triton_config"]["required"]:
        if key not in said:
            what = f"triton_config.{key} is missing: NVIDIA's model needs it"
            yield _in(model, _YAML, "argument", what, f"add {key} to triton_config", line=here)
    batch = said.get("max_batch_size", 0)
    if batch != 0:
        what = f"triton_config.max_batch_size is {batch}: the LLM API takes one prompt a request"
        line = table.lines.get("triton_config.max_batch_size", here)
        yield _in(model, _YAML, "max-batch-size", what, "set it to 0", line=line)
    yield from _agreement(model, bool(said.get("decoupled", False)))


def _agreement(model: Model, streams: bool) -> Iterator[Finding]:  # noqa: FBT001 - a fact
    """Auto-completion would carry the YAML's word over; NVIDIA's launcher turns it off."""
    if streams != model.decoupled:
        word = {True: "true", False: "false"}
        declared = model.line("model_transaction_policy", "decoupled")
        yield model.finding(
            "decoupled",
            f"decoupled is {word[model.decoupled]} here and {word[streams]} in {_YAML}: a streamed "
            "request hangs, or the model does not load",
            f"model_transaction_policy {{ decoupled: {word[streams]} }}",
            line=declared,
        )
    if model.max_batch_size:
        yield model.finding(
            "max-batch-size",
            f"max_batch_size {model.max_batch_size}: the LLM API takes one prompt a request",
            "set it to 0",
            line=model.line("max_batch_size"),
        )


def _gpus(model: Model, table: Table) -> Iterator[Finding]:
    world = _size(table.values, "tensor_parallel_size") * _size(
        table.values, "pipeline_parallel_size"
    )
    given = lists(model)
    if model.instances > 1 and len(given) != model.instances:
        yield model.finding(
            "instances",
            f"{model.instances} instances need as many lists of GPUs, and gpu_device_ids has "
            f"{len(given)}",
            'gpu_device_ids "0,1;2,3" gives each of two instances two GPUs',
            line=model.line("instance_group"),
        )
    for gpus in given:
        if len(gpus) != world:
            yield model.finding(
                "world-size",
                f"gpu_device_ids gives an instance {len(gpus)} GPUs, and {_YAML} has tensor × "
                f"pipeline parallel {world}",
                f"give each instance {world}",
                line=model.parameters["gpu_device_ids"].line,
            )


def vllm(_: Repository, model: Model) -> Iterator[Finding]:
    """The vLLM backend streams, finds its model, and takes as many GPUs as it needs."""
    if model.backend != "vllm":
        return
    file = model.home / _JSON
    try:
        said = read_json(file)
    except ValueError as error:
        yield _in(model, _JSON, "syntax", f"cannot be read: {error}", "write it anew")
        return
    yield from _model(model, said, _JSON, 0)
    if not model.decoupled:
        yield model.finding(
            "decoupled",
            "is not decoupled, which the vLLM backend must be",
            "model_transaction_policy { decoupled: true }: auto-completion alone would say it",
            line=model.line("model_transaction_policy", "decoupled"),
        )
    world = _size(said, "tensor_parallel_size") * _size(said, "pipeline_parallel_size")
    kinds = [group.said("kind") for group in model.config.all("instance_group")]
    if world > 1 and "KIND_GPU" in kinds:
        yield model.finding(
            "world-size",
            f"KIND_GPU is for one GPU, and {_JSON} has tensor × pipeline parallel {world}",
            "kind: KIND_MODEL",
            line=model.line("instance_group", "kind"),
        )


def _model(model: Model, said: Mapping[str, Any], file: str, line: int) -> Iterator[Finding]:
    name = said.get("model")
    if not isinstance(name, str) or not name:
        yield _in(model, file, "argument", "says no model", "name a checkpoint", line=line)
        return
    places = (Path(name), model.home / "1" / name, model.home.parent / name)
    local = name.startswith((".", "/")) or name.count("/") != 1
    if local and not any(place.is_dir() for place in places):
        hint = "a relative path begins beside the file, or in the repository"
        yield _in(model, file, "path", f"model {name} does not exist", hint, line=line)
    elif not local and not any(place.is_dir() for place in places):
        hint = "name a local directory: what is served must not change behind a name"
        what = f"model {name} is no directory here, so it would be fetched from a hub"
        yield _in(model, file, "path", what, hint, line=line, severity=Severity.WARN)


def _size(said: Mapping[str, Any], key: str) -> int:
    found = said.get(key, 1)
    return found if isinstance(found, int) else 1


def _in(model: Model, file: str, rule: str, what: str, hint: str, **more: Any) -> Finding:  # noqa: ANN401
    return Finding(
        rule=rule, file=f"{model.name}/{file}", what=what, hint=hint, **({"line": 0} | more)
    )
