"""What holds for any model at Triton."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from builders.render.lint.finding import Finding, Severity
from builders.render.lint.pbtxt import PLACEHOLDER
from builders.render.lint.repository import Model, Repository, number

_VERSION: Final = re.compile(r"[1-9][0-9]*\Z")  # Triton ignores every other directory name


def name(_: Repository, model: Model) -> Iterator[Finding]:
    """The name is the directory's, or is not said."""
    said = model.config.said("name")
    if said and said != model.name and not PLACEHOLDER.search(said):
        yield model.finding(
            "name",
            f"name {said!r} is not the directory's",
            f"call it {model.name!r}, or rename the directory",
            line=model.line("name"),
        )


def batch_size(_: Repository, model: Model) -> Iterator[Finding]:
    """Batch sizes are possible, and preferred ones fit."""
    most = model.max_batch_size
    if most < 0:
        yield model.finding(
            "max-batch-size",
            f"max_batch_size {most} is negative",
            "0 turns Triton's batching off",
            line=model.line("max_batch_size"),
        )
    batching = model.config.get("dynamic_batching")
    for preferred in batching.all("preferred_batch_size") if batching else ():
        if number(preferred.text) > most and not PLACEHOLDER.search(
            preferred.text + model.config.said("max_batch_size")
        ):
            yield model.finding(
                "max-batch-size",
                f"preferred_batch_size {preferred.text} is more than max_batch_size {most}",
                "prefer what fits",
                line=preferred.line,
            )


def versions(_: Repository, model: Model) -> Iterator[Finding]:
    """There is a version to load, and its program."""
    inside = (path for path in model.home.iterdir() if path.is_dir())
    found = sorted(path for path in inside if _VERSION.match(path.name))
    if not found:
        yield model.finding(
            "version", "has no version directory (1, 2, …)", f"mkdir {model.name}/1"
        )
    script = model.config.said("default_model_filename") or "model.py"
    for version in found if model.backend == "python" else ():
        if not (version / script).is_file():
            yield model.finding(
                "version", f"version {version.name} has no {script}", f"add {model.name}/1/{script}"
            )


def placeholders(_: Repository, model: Model) -> Iterator[Finding]:
    """Nothing of a template is left open: outside of quotes Triton cannot read the file at all."""
    for field in model.config.walk():
        for placeholder in dict.fromkeys(PLACEHOLDER.findall(f"{field.name} {field.text}")):
            yield model.finding(
                "placeholder",
                f"{placeholder} was not filled in"
                + (", which NVIDIA's models take for unset" if field.quoted else ""),
                "fill it in, or leave the whole parameter out"
                if field.quoted
                else "fill it in: outside of quotes Triton cannot read the file",
                line=field.line,
                severity=Severity.WARN if field.quoted else Severity.STOP,
            )


def duplicates(_: Repository, model: Model) -> Iterator[Finding]:
    """No tensor and no parameter is declared twice."""
    for kind in ("input", "output"):
        names = [tensor.said("name") for tensor in model.tensors(kind)]
        for twice, count in sorted(Counter(names).items()):
            if count > 1:
                again = [t for t in model.tensors(kind) if t.said("name") == twice][-1]
                yield model.finding(
                    "duplicate",
                    f"{kind} {twice} is declared {count} times",
                    "declare it once",
                    line=again.line,
                )
    keys = [entry.said("key") for entry in model.config.all("parameters")]
    for twice, count in sorted(Counter(keys).items()):
        if count > 1:
            yield model.finding(
                "duplicate",
                f"parameter {twice} is set {count} times, and the last one counts",
                "set it once",
                line=model.parameters[twice].line,
            )
