"""Reads anybody's model repository and says what Triton would refuse, hang on or get wrong.

Needs no server and no GPU. Lines come from our own reader, which also reads unfilled templates;
what Triton's own schema refuses is told where ``tritonclient``, which has it, is installed.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from builders.render.lint import arguments, ensembles, general, nvidia, places
from builders.render.lint.finding import Finding, Severity
from builders.render.lint.repository import Model, Repository

__all__ = ["RULES", "Finding", "Severity", "lint"]

Rule = Callable[[Repository, Model], Iterator[Finding]]

RULES: Final[tuple[Rule, ...]] = (
    general.name,
    general.batch_size,
    general.versions,
    general.placeholders,
    general.duplicates,
    ensembles.ensembles,
    nvidia.parameters,
    nvidia.streaming,
    nvidia.undecoupled,
    nvidia.engine,
    places.tokenizer,
    places.engines,
    arguments.llm_api,
    arguments.vllm,
)


def lint(root: Path) -> tuple[Finding, ...]:
    """Return every defect, in the order of files and lines; what is no repository is refused."""
    repository = Repository.open(root)
    found = [*repository.broken]
    for model in repository.models.values():
        found += [finding for rule in RULES for finding in rule(repository, model)]
        found += _schema(model)
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (one.file, one.line, one.what)))


def _schema(model: Model) -> list[Finding]:
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # the schema comes with gRPC
    try:
        schema = importlib.import_module("builders.render.schema")
    except ImportError:
        return []
    fault = schema.fault(model.text)
    if fault is None:
        return []
    line, what = fault
    return [model.finding("schema", what, "Triton's own schema refuses it", line=line)]
