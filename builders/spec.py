"""`release.toml`: what a user asks for, parsed once, every key with a default but the model."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl

from builders.errors import UsageError
from builders.formats import Format
from builders.parse import Table, read_toml
from builders.recipe import Calibration, HubTexts, Memory, Texts, Unreached
from builders.tiers import tier

_HUB: Final = re.compile(
    r"hub:(?P<hub_id>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})"
    r"(?:/(?P<file>[^\s?]+\.jsonl)|\?(?P<query>\S+))"
)
_HUB_KEYS: Final = frozenset({"config", "split", "column"})
RUNTIMES: Final = ("embedded", "trtllm", "vllm")
KV_CACHE: Final = {
    "none": Format.BF16,
    "fp8": Format.FP8,
    "nvfp4": Format.NVFP4,
    "int8": Format.INT8,
    "fp8_e5m2": Format.FP8_E5M2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The checkpoint: a directory, or a hub repository at a pinned revision."""

    path: Path | None
    hub_id: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """The recipe, its KV cache dial (None: the recipe's own), exclusions, memory, texts."""

    recipe: str
    kv_cache: Format | None
    exclude: tuple[str, ...]
    memory: Memory
    calibration: Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the release will run; ``lane`` "" is the runtime's first that takes the recipe."""

    tier: str
    runtime: str
    runtime_version: str
    lane: str
    tp: int
    pp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """How it is served: model name, tokens of context (0: the model's own), requests at once."""

    name: str
    context: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One parsed `release.toml`; paths are absolute."""

    file: Path
    model: Model
    baseline: Model | None
    quantize: Quantize
    target: Target
    serve: Serve
    policy: Path
    channel: str
    store: Path | None

    @classmethod
    def read(cls, file: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a file, apply ``a.b=value`` overrides, refuse what is unknown or ill-typed."""
        data = read_toml(file)
        for setting in overrides:
            override(data, setting)
        base = file.resolve().parent
        with Table(data, place=str(file)) as top:
            target = _target(top.table("target"))
            policy, channel, store = _gates_and_release(top, target)
            return cls(
                file=file,
                model=_required(_model(top.table("model"), base, f"{file}: model"), file),
                baseline=_model(top.table("baseline"), base, f"{file}: baseline"),
                quantize=_quantize(top.table("quantize"), base),
                target=target,
                serve=_serve(top.table("serve")),
                policy=base / policy,
                channel=channel,
                store=base / store if store else None,
            )


def _gates_and_release(top: Table, target: Target) -> tuple[str, str, str]:
    with top.table("gates") as gates:
        policy = gates.text("policy", "policy.toml")
    with top.table("release") as release:
        channel = release.text("channel", f"{target.tier}/stable")
        return policy, channel, release.text("store", "")


def _model(table: Table, base: Path, place: str) -> Model | None:
    """Read where a checkpoint comes from; an absent table is None."""
    with table:
        path, hub_id = table.text("path", ""), table.text("hub_id", "")
        revision = table.text("revision", "")
    if not path and not hub_id:
        return None
    if path and hub_id:
        raise UsageError(f"{place} has both path and hub_id", hint="keep the one you mean")
    pinned = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    if hub_id and not pinned:
        raise UsageError(
            f"{place}.revision must be a commit of 40 hex digits, not {revision!r}",
            hint="branches and tags move; copy the commit from the repository's history",
        )
    return Model(path=base / path if path else None, hub_id=hub_id, revision=revision)


def _required(model: Model | None, file: Path) -> Model:
    if model is None:
        raise UsageError(
            f"{file}: model needs either path or hub_id",
            hint='[model] path = "my-model", or hub_id = "org/name" with revision = "<40 hex>"',
        )
    return model


def _quantize(table: Table, base: Path) -> Quantize:
    with table:
        recipe = table.text("recipe", "fp8")
        if recipe.endswith(".toml"):
            recipe = str(base / recipe)
        dial = table.text("kv_cache", "")
        if dial and dial not in KV_CACHE:
            raise UsageError(
                f"quantize.kv_cache = {dial!r} is not one of {', '.join(KV_CACHE)}",
                hint="leave it out to take the recipe's own",
            )
        exclude = table.texts("exclude", ())
        memory = table.choice("memory", Memory, Memory.AUTO)
        corpus = _calibration(table.table("calibration"), base)
    kv_cache = KV_CACHE[dial] if dial else None
    return Quantize(
        recipe=recipe, kv_cache=kv_cache, exclude=exclude, memory=memory, calibration=corpus
    )


def _calibration(table: Table, base: Path) -> Calibration:
    with table:
        files = tuple(_texts(name, base) for name in table.texts("files", ()))
        weights = table.numbers("weights", ())
        if weights and (len(weights) != len(files) or not sum(weights)):
            raise UsageError(
                f"{table.place}: quantize.calibration.weights has {len(weights)} numbers for "
                f"{len(files)} files",
                hint="give one weight for each file, in the same order, not all of them 0",
            )
        return Calibration(
            files=files,
            weights=weights,
            samples=table.whole("samples", 512, least=1),
            length=table.whole("length", 512, least=1),
            seed=table.whole("seed", 0),
            unreached=table.choice("unreached", Unreached, Unreached.EXPLAIN),
            overlap=table.number("overlap", 0.01),
        )


def _texts(name: str, base: Path) -> Texts:
    """Read a path, or ``hub:`` with data set, pinned commit, and a file or a split of it."""
    if not name.startswith("hub:"):
        return base / name
    found = _HUB.fullmatch(name)
    given = dict(parse_qsl(found["query"] or "", keep_blank_values=True)) if found else {}
    if not found or bool(found["file"]) == bool(given) or given.keys() - _HUB_KEYS:
        raise UsageError(
            f"quantize.calibration.files: {name} names no pinned file or split",
            hint="hub:ORG/NAME@<commit of 40 hex digits>/FILE.jsonl, or "
            "hub:ORG/NAME@<commit>?split=train&config=…&column=text",
        )
    return HubTexts(
        hub_id=found["hub_id"], revision=found["revision"], file=found["file"] or "", **given
    )


def _target(table: Table) -> Target:
    with table:
        name = tier(table.text("tier", "cpu")).name
        runtime = table.text("runtime", "embedded")
        if runtime not in RUNTIMES:
            raise UsageError(
                f"target.runtime = {runtime!r} is not one of {', '.join(RUNTIMES)}",
                hint="embedded runs everywhere",
            )
        return Target(
            tier=name,
            runtime=runtime,
            runtime_version=table.text("runtime_version", ""),
            lane=table.text("lane", ""),
            tp=table.whole("tp", 1, least=1),
            pp=table.whole("pp", 1, least=1),
        )


def _serve(table: Table) -> Serve:
    with table:
        return Serve(
            name=table.text("name", "model"),
            context=table.whole("context", 0),
            concurrency=table.whole("concurrency", 4, least=1),
        )


def override(data: dict[str, object], setting: str) -> None:
    """Set one ``a.b=value``: the value is TOML where it parses as such, else a string."""
    dotted, equals, text = setting.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise UsageError(f"--set {setting}: not of the form table.key=value")
    table: dict[str, object] = data
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {setting}: {key} is not a table")
        table = inner
    table[keys[-1]] = _value(text.strip())


def _value(text: str) -> object:
    try:
        parsed: Mapping[str, object] = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text
