"""Follows the tensors of each ensemble from its inputs through its steps to its outputs."""

from collections.abc import Iterator, Mapping

from builders.parse import nearest
from builders.render.lint.finding import Finding
from builders.render.lint.pbtxt import Field
from builders.render.lint.repository import Model, Repository

Maps = Mapping[str, Field]


def ensembles(repository: Repository, model: Model) -> Iterator[Finding]:
    """Every step has its model, its inputs and its outputs, and every tensor a maker."""
    scheduling = model.config.get("ensemble_scheduling")
    if scheduling is None:
        return
    steps = list(scheduling.all("step"))
    made = model.names("input")
    made |= {tensor.text for step in steps for tensor in _map(step, "output_map").values()}
    for tensor in _wanted(model, steps):
        if tensor.text not in made:
            yield model.finding(
                "ensemble",
                f"no step produces the tensor {tensor.text}",
                nearest(tensor.text, made),
                line=tensor.line,
            )
    for step in steps:
        yield from _step(repository, model, step)


def _wanted(model: Model, steps: list[Field]) -> Iterator[Field]:
    seen = set()
    inputs = (tensor for step in steps for tensor in _map(step, "input_map").values())
    outputs = (field for one in model.tensors("output") if (field := one.get("name")))
    for tensor in (*inputs, *outputs):
        if tensor.text not in seen:
            seen.add(tensor.text)
            yield tensor


def _map(step: Field, kind: str) -> Maps:
    found = {}
    for entry in step.all(kind):
        key, value = entry.get("key"), entry.get("value")
        if key and value:
            found[key.text] = Field("value", entry.line, text=value.text)
    return found


def _step(repository: Repository, model: Model, step: Field) -> Iterator[Finding]:
    called = step.said("model_name")
    target = repository.models.get(called)
    if target is None:
        yield model.finding(
            "ensemble",
            f"step {called} is not in the repository",
            nearest(called, repository.models),
            line=step.line,
        )
        return
    if 0 < target.max_batch_size < model.max_batch_size:
        yield model.finding(
            "max-batch-size",
            f"max_batch_size {model.max_batch_size} is more than the {target.max_batch_size} of "
            f"step {called}",
            "an ensemble batches no more than its smallest step",
            line=model.line("max_batch_size"),
        )
    yield from _tensors(model, step, target)


def _tensors(model: Model, step: Field, target: Model) -> Iterator[Finding]:
    inputs, outputs = _map(step, "input_map"), _map(step, "output_map")
    for kind, said in (("input", inputs), ("output", outputs)):
        known = target.names(kind)
        for name in sorted(said.keys() - known):
            yield model.finding(
                "ensemble",
                f"step {target.name} has no {kind} {name}",
                nearest(name, known),
                line=said[name].line,
            )
    for tensor in target.tensors("input"):
        name = tensor.said("name")
        if tensor.said("optional").lower() != "true" and name not in inputs:
            yield model.finding(
                "ensemble",
                f"step {target.name} gets no input {name}",
                f"map one of the ensemble's tensors to {name}",
                line=step.line,
            )
