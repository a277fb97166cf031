"""A repository as it lies on disk: its models' configurations with lines, and what is beside."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from builders.errors import UsageError
from builders.render.lint.finding import Finding
from builders.render.lint.pbtxt import Field, Unreadable, read

CONFIG: Final = "config.pbtxt"


@dataclass(frozen=True)
class Model:
    """One model: its directory and its configuration."""

    home: Path
    text: str
    config: Field

    @property
    def name(self) -> str:
        """The directory's name, which is the model's."""
        return self.home.name

    @property
    def backend(self) -> str:
        """The backend, or "ensemble"."""
        return self.config.said("backend") or self.config.said("platform")

    @property
    def max_batch_size(self) -> int:
        """How many requests Triton puts together; 0 where it is not known."""
        return number(self.config.said("max_batch_size"))

    @property
    def decoupled(self) -> bool:
        """Whether it may answer more than once."""
        return self.config.said("model_transaction_policy", "decoupled").lower() in {
            "true",
            "t",
            "1",
        }

    @cached_property
    def parameters(self) -> Mapping[str, Field]:
        """The string parameters by key."""
        found = {}
        for entry in self.config.all("parameters"):
            value = entry.get("value", "string_value") or Field("string_value", entry.line)
            found[entry.said("key")] = value
        return found

    def parameter(self, key: str) -> str:
        """Return a parameter's value; "" where it is absent or not filled in."""
        value = self.parameters[key].text if key in self.parameters else ""
        return "" if value.startswith("${") else value

    def tensors(self, kind: str) -> Iterator[Field]:
        """Yield the inputs or outputs."""
        return self.config.all(kind)

    def names(self, kind: str) -> set[str]:
        """Return the names of the inputs or outputs."""
        return {tensor.said("name") for tensor in self.tensors(kind)}

    @property
    def instances(self) -> int:
        """How many instances all groups make together."""
        return sum(
            number(group.said("count", default="1")) for group in self.config.all("instance_group")
        )

    def line(self, *path: str) -> int:
        """Return where a field stands, 0 where it is absent."""
        found = self.config.get(*path)
        return found.line if found else 0

    def finding(self, rule: str, what: str, hint: str, *, line: int = 0, **more: Any) -> Finding:  # noqa: ANN401
        """Return a finding in the configuration."""
        file = f"{self.name}/{CONFIG}"
        return Finding(rule=rule, file=file, line=line, what=what, hint=hint, **more)


@dataclass(frozen=True)
class Repository:
    """All models that can be read, and a finding for each that cannot."""

    root: Path
    models: Mapping[str, Model]
    broken: tuple[Finding, ...]

    @classmethod
    def open(cls, root: Path) -> "Repository":
        """Read a repository; a directory without models is a `UsageError`."""
        if not root.is_dir():
            raise UsageError(
                f"{root}: no such model repository", hint="enginesmith render --out DIR"
            )
        homes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
        if not homes:
            raise UsageError(
                f"{root}: holds no model", hint="a model is a directory with config.pbtxt"
            )
        models, broken = {}, []
        for home in homes:
            try:
                text = (home / CONFIG).read_text(encoding="utf-8")
                models[home.name] = Model(home=home, text=text, config=read(text))
            except FileNotFoundError:
                broken.append(_broken(home, 0, "is missing"))
            except Unreadable as error:
                broken.append(_broken(home, error.line, f"cannot be read: {error}"))
            except (OSError, UnicodeDecodeError) as error:
                broken.append(_broken(home, 0, f"cannot be read: {error}"))
        return cls(root, models, tuple(broken))

    def path(self, text: str) -> Path:
        """Return where a path leads: relative ones begin in the repository."""
        return self.root / text


def _broken(home: Path, line: int, what: str) -> Finding:
    hint = (
        "each directory of a repository is a model, with a config.pbtxt in protobuf's text format"
    )
    return Finding(rule="syntax", file=f"{home.name}/{CONFIG}", line=line, what=what, hint=hint)


def number(text: str) -> int:
    """Read a whole number; anything else is 0."""
    try:
        return int(text)
    except ValueError:
        return 0


@dataclass(frozen=True)
class Table:
    """A YAML table with the lines of its keys."""

    values: Mapping[str, Any]
    lines: Mapping[str, int]


def read_yaml(file: Path) -> Table:
    """Read a YAML table, keys of inner tables as ``outer.inner``; ValueError says what is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
        values, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ValueError("it holds no table")
    return Table(values, dict(_lines(node, "")))


def _lines(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _lines(value, f"{name}.")


def read_json(file: Path) -> Mapping[str, Any]:
    """Read a JSON object; ValueError says what is wrong."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found
