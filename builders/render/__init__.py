"""Render Triton model repositories from Jinja templates. Knows nothing of GPUs and servers."""

import importlib
import os
from collections.abc import Iterator
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import jinja2

from builders import files
from builders.errors import ToolError, UsageError
from builders.parse import nearest
from builders.render.context import Context
from builders.render.environment import environment
from builders.render.model import Model

__all__ = ["VARIANTS", "Context", "Model", "check", "models", "render", "texts"]

VARIANTS: Final = {
    "embedded": "builders.render.embedded",
    "llmapi": "builders.render.llmapi",
    "vllm": "builders.render.vllm",
    "inflight_batcher_llm": "builders.render.inflight",
}


class Variant(Protocol):
    """A kind of repository."""

    def models(self, context: Context) -> tuple[Model, ...]:
        """Return the models that make the repository, in the order in which they are written."""


if TYPE_CHECKING:
    from builders.render import embedded, inflight, llmapi, vllm

    _checked: dict[str, Variant] = {
        "embedded": embedded,
        "llmapi": llmapi,
        "vllm": vllm,
        "inflight_batcher_llm": inflight,
    }


def models(variant: str, context: Context) -> tuple[Model, ...]:
    """Return what a repository of this variant holds."""
    if variant not in VARIANTS:
        raise UsageError(f"unknown repository variant {variant!r}", hint=nearest(variant, VARIANTS))
    return cast("Variant", importlib.import_module(VARIANTS[variant])).models(context)


def texts(variant: str, context: Context) -> dict[str, str]:
    """Return every file but the engine's, by its path in the repository; writes nothing."""
    jinja = environment()
    made = {}
    for model in models(variant, context):
        for path, template in model.templates.items():
            made[f"{model.name}/{path}"] = _fill(jinja, template, context)
        for path, program in model.programs.items():
            made[f"{model.name}/{path}"] = _program(program)
    return made


def render(variant: str, context: Context, engine: Path, out: Path) -> None:
    """Write a model repository into ``out``; the engine's files are hard-linked where possible."""
    found = list(_engine_files(engine))
    with files.disk_errors(f"{out}: rendering the model repository"):
        for model in models(variant, context):
            home = out / model.name
            home.mkdir(parents=True)  # never into one that is there: its files may be hard links
            for file in found if model.engine else ():
                target = home / model.engine / file.relative_to(engine)
                target.parent.mkdir(parents=True, exist_ok=True)
                files.place(file, target, owned=True)
        for path, text in texts(variant, context).items():
            _write(out / path, text)


def check(repository: Path, variant: str, context: Context) -> None:
    """Read a rendered repository back with Triton's own schema; `ToolError` if it says otherwise.

    Needs ``tritonclient``, which has the schema.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # the schema comes with gRPC
    try:
        schema = importlib.import_module("builders.render.schema")
        lint = importlib.import_module("builders.render.lint")
    except ImportError as error:
        raise ToolError(
            f"what reads configurations cannot be loaded: {error}",
            hint="pip install 'enginesmith[triton]', then enginesmith doctor",
        ) from error
    # Where a golden rendering has no engine, its paths lead nowhere; that is the caller's affair.
    findings = [str(one) for one in lint.lint(repository) if one.rule != "path"]
    schema.check(repository, findings, models(variant, context))


def _engine_files(engine: Path) -> Iterator[Path]:
    if not engine.is_dir():
        raise UsageError(f"{engine}: no such engine directory", hint="enginesmith build")
    for path in sorted(engine.rglob("*")):
        if path.is_symlink():
            raise UsageError(f"{path}: a symbolic link", hint="an engine holds its files itself")
        if path.is_file():
            yield path


def _program(name: str) -> str:
    file = resources.files("builders.render.programs") / f"{name}.py"
    return file.read_text(encoding="utf-8")


def _fill(jinja: jinja2.Environment, template: str, context: Context) -> str:
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    try:
        return jinja.get_template(template).render(values)
    except (jinja2.TemplateError, TypeError) as error:
        raise ToolError(f"templates/triton/{template}: {error}") from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
