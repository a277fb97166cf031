"""Scorers of the user's own: Python functions that the policy names. Runs no other code.

A scorer is a function ``score(prompt, answer)`` of a dictionary (the prompt's ``id``, ``expect``,
``choices``, ``ignore_case`` and ``tolerance``) and the answer's text; it returns a number from 0.0,
wrong, to 1.0, right, or a bool. It runs in this process, with all of its rights, once for each
answer. ``module:function`` is looked for beside the prompt file first, then among what is
installed.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import cast

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate.answering.scorers import Expected, Scorer

Function = Callable[[dict[str, object], str], object]


def load(name: str, *, beside: Path) -> Scorer:
    """Load ``module:function``; what is not there, or no function, is a `UsageError`."""
    module, _, function = name.partition(":")
    try:
        found = getattr(_module(_spec(module, beside)), function, None)
    except Exception as error:  # their code may raise anything while it loads
        raise UsageError(
            f"the scorer {name} cannot be loaded: {type(error).__name__}: {error}",
            hint=f"put {module}.py beside the prompt file, or install it",
        ) from error
    if not callable(found):
        raise UsageError(
            f"the scorer {name}: {module} has no such function",
            hint="def score(prompt: dict, answer: str) -> float",
        )
    call = cast("Function", found)
    return Scorer(
        score=lambda expected, answer: _score(name, call, expected, answer),
        needs_expectation=False,
    )


def digest(name: str, *, beside: Path) -> str:
    """Return the digest of the file in which a scorer stands; "" where it has none."""
    spec = _spec(name.partition(":")[0], beside)
    origin = Path(spec.origin) if spec.origin else None
    return files.digest(origin) if origin and origin.is_file() else ""


def _spec(module: str, beside: Path) -> ModuleSpec:
    near = beside / f"{module}.py"
    spec = (
        importlib.util.spec_from_file_location(f"enginesmith_scorer_{module}", near)
        if near.is_file()
        else importlib.util.find_spec(module)
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no module {module}")
    return spec


def _module(spec: ModuleSpec) -> ModuleType:
    if not spec.name.startswith("enginesmith_scorer_"):
        return importlib.import_module(spec.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return module


def _score(name: str, call: Function, expected: Expected, answer: str) -> float:
    asked: dict[str, object] = {
        "id": expected.id,
        "expect": list(expected.expect),
        "choices": list(expected.choices),
        "ignore_case": expected.ignore_case,
        "tolerance": expected.tolerance,
    }
    try:
        score = call(asked, answer)
    except Exception as error:  # their code may raise anything
        raise EvidenceError(
            f"prompt {expected.id}: the scorer {name} failed: {type(error).__name__}: {error}",
            hint="mend the scorer: every answer must get a number",
        ) from error
    if not isinstance(score, int | float) or not isfinite(score) or not 0 <= score <= 1:
        raise EvidenceError(
            f"prompt {expected.id}: the scorer {name} returned {score!r}",
            hint="return a number from 0.0 to 1.0",
        )
    return float(score)
