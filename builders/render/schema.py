"""Reads repositories back with Triton's own schema, and finds what the schema cannot see."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from builders.errors import ToolError
from builders.render.model import Model

Configs = Mapping[str, ModelConfig]

_PLACEHOLDER: Final = re.compile(r"\$\{\w+\}")
_VERSION: Final = re.compile(r"[1-9][0-9]*\Z")  # Triton ignores every other directory name


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One defect of a repository: the model, and what is wrong with it."""

    model: str
    what: str

    def __str__(self) -> str:
        return f"{self.model}/config.pbtxt: {self.what}"


def check(repository: Path, meant: Sequence[Model]) -> None:
    """Compare a rendered repository with what was meant; the first difference is a `ToolError`."""
    configs, findings = read(repository)
    findings += tuple(finding for rule in RULES for finding in rule(repository, configs))
    findings += tuple(_differences(configs, meant))
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise ToolError(
            f"{repository}/{findings[0]}{more}",
            hint="the rendered repository is not what was meant: remove it and render again",
        )


def lint(repository: Path) -> tuple[Finding, ...]:
    """Return every defect that can be seen without a server and without a plan."""
    configs, findings = read(repository)
    found = [finding for rule in RULES for finding in rule(repository, configs)]
    return (*findings, *found)


def read(repository: Path) -> tuple[dict[str, ModelConfig], tuple[Finding, ...]]:
    """Parse every model's configuration; what cannot be parsed is a finding."""
    configs: dict[str, ModelConfig] = {}
    findings = []
    for home in sorted(path for path in repository.iterdir() if path.is_dir()):
        try:
            text = (home / "config.pbtxt").read_text(encoding="utf-8")
            configs[home.name] = text_format.Parse(text, ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            findings.append(Finding(home.name, f"cannot be read: {error}"))
    return configs, tuple(findings)


def _differences(configs: Configs, meant: Sequence[Model]) -> Iterator[Finding]:
    for name in sorted(configs.keys() ^ {model.name for model in meant}):
        yield Finding(name, "is not meant to be there" if name in configs else "is missing")
    for model in meant:
        wanted = json_format.ParseDict(dict(model.meant), ModelConfig())
        found = configs.get(model.name, wanted)
        if found != wanted:
            fields = (field.name for field in ModelConfig.DESCRIPTOR.fields)
            differ = [name for name in fields if getattr(found, name) != getattr(wanted, name)]
            yield Finding(model.name, f"{', '.join(differ)}: not what was meant")


def _name(_: Path, configs: Configs) -> Iterator[Finding]:
    for home, config in configs.items():
        if config.name and config.name != home:
            yield Finding(home, f"name {config.name!r} is not the directory's")


def _batch_size(_: Path, configs: Configs) -> Iterator[Finding]:
    for home, config in configs.items():
        if config.max_batch_size < 0:
            yield Finding(home, f"max_batch_size {config.max_batch_size} is negative")


def _versions(repository: Path, configs: Configs) -> Iterator[Finding]:
    for home, config in configs.items():
        inside = (path for path in (repository / home).iterdir() if path.is_dir())
        versions = sorted(path for path in inside if _VERSION.match(path.name))
        if not versions:
            yield Finding(home, "has no version directory (1, 2, …)")
        script = config.default_model_filename or "model.py"
        for version in versions if config.backend == "python" else ():
            if not (version / script).is_file():
                yield Finding(home, f"version {version.name} has no {script}")


def _placeholders(_: Path, configs: Configs) -> Iterator[Finding]:
    for home, config in configs.items():
        text = text_format.MessageToString(config)
        for placeholder in sorted(set(_PLACEHOLDER.findall(text))):
            yield Finding(home, f"{placeholder} was not filled in")


def _duplicates(_: Path, configs: Configs) -> Iterator[Finding]:
    for home, config in configs.items():
        for kind, tensors in (("input", config.input), ("output", config.output)):
            for name, count in sorted(Counter(tensor.name for tensor in tensors).items()):
                if count > 1:
                    yield Finding(home, f"{kind} {name} is declared {count} times")


def _ensembles(_: Path, configs: Configs) -> Iterator[Finding]:
    """Follow the tensors of each ensemble from its inputs through its steps to its outputs."""
    for home, config in configs.items():
        if not config.HasField("ensemble_scheduling"):
            continue
        steps = config.ensemble_scheduling.step
        produced = {tensor.name for tensor in config.input}
        produced |= {value for step in steps for value in step.output_map.values()}
        consumed = {value for step in steps for value in step.input_map.values()}
        for name in sorted((consumed | {tensor.name for tensor in config.output}) - produced):
            yield Finding(home, f"no step produces the tensor {name}")
        for step in steps:
            for what in _maps(configs.get(step.model_name), step.input_map, step.output_map):
                yield Finding(home, f"step {step.model_name} {what}")


def _maps(
    target: ModelConfig | None, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Iterator[str]:
    if target is None:
        yield "is not in the repository"
        return
    known = {tensor.name: tensor.optional for tensor in target.input}
    for name in sorted(inputs.keys() - known.keys()):
        yield f"has no input {name}"
    for name in sorted(outputs.keys() - {tensor.name for tensor in target.output}):
        yield f"has no output {name}"
    for name, optional in known.items():
        if not optional and name not in inputs:
            yield f"gets no input {name}"


RULES: Final[tuple[Callable[[Path, Configs], Iterator[Finding]], ...]] = (
    _name,
    _batch_size,
    _versions,
    _placeholders,
    _duplicates,
    _ensembles,
)
