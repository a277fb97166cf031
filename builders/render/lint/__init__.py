"""Reads anybody's model repository and says what Triton would refuse, hang on or get wrong.

Needs no server and no GPU. Lines come from our own reader, which also reads unfilled templates;
what Triton's own schema refuses is told where ``tritonclient``, which has it, is installed.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from builders.render.lint import arguments, ensembles, general, nvidia, places
from builders.render.lint.finding import Finding, Severity
from builders.render.lint.repository import Model, Repository

__all__ = ["RULES", "Finding", "Severity", "lint"]

_UNSEEN: Final = Finding(
    rule="schema",
    file=".",
    line=0,
    what="Triton's own schema is not installed, so misspelled fields are not found",
    hint="pip install 'enginesmith[triton]'",
    severity=Severity.WARN,
)
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
    found, schema = [*repository.broken], _schema()
    for model in repository.models.values():
        found += [finding for rule in RULES for finding in rule(repository, model)]
        fault = schema.fault(model.text) if schema else None
        if fault:
            hint = "Triton's own schema refuses it"
            found.append(model.finding("schema", fault[1], hint, line=fault[0]))
    if schema is None:
        found.append(_UNSEEN)
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (one.file, one.line, one.what)))


def _schema() -> ModuleType | None:
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # the schema comes with gRPC
    try:
        return importlib.import_module("builders.render.schema")
    except ImportError:
        return None
