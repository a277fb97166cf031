"""The engine that came out, read from its own config.json, against the one that was asked for.

TensorRT-LLM records what it built, not what it was told (builder.py, EngineConfig.to_dict).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from builders.bundle import fingerprint
from builders.engine.sources import broken, read_object
from builders.engine.trtllm.flags import flags
from builders.engine.trtllm.rewrites import effective_flags
from builders.engine.trtllm.settings import KV_ALGORITHMS, BuildSettings
from builders.errors import UsageError

CONFIG: Final = "config.json"
# Flags that no engine is different for.
_UNRECORDED: Final = frozenset({"workers", "log_level"})
# An engine that differs here serves something else than what was planned.
LIMITS: Final = ("max_batch_size", "max_seq_len", "max_beam_width", "kv_cache_type")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the engine has otherwise than asked, and whether it may not be."""

    what: str
    asked: str
    found: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.found} instead of {self.asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """An engine's config.json: who built it, from which checkpoint configuration, and how."""

    version: str
    pretrained: Mapping[str, object]
    build: Mapping[str, object]

    @classmethod
    def read(cls, engine: Path) -> Self:
        """Read it from an engine directory; what is no engine's is a `UsageError`."""
        file = engine / CONFIG
        data = read_object(file)
        version, pretrained = data.get("version"), data.get("pretrained_config")
        build = data.get("build_config")
        if not isinstance(version, str) or not version.isprintable() or not version:
            raise broken(file, "version is missing")
        if not isinstance(pretrained, Mapping) or not isinstance(build, Mapping):
            raise broken(file, "pretrained_config and build_config must be tables")
        return cls(version=version, pretrained=pretrained, build=build)

    @property
    def digest(self) -> str:
        """The SHA-256 of what was built, whatever the order of its keys."""
        return fingerprint(
            {
                "version": self.version,
                "pretrained": dict(self.pretrained),
                "build": dict(self.build),
            }
        )

    def mapping(self, key: str) -> int:
        """Read one size of the parallel mapping; an absent one is 1."""
        mapping = self.pretrained.get("mapping", {})
        value = mapping.get(key, 1) if isinstance(mapping, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(
                f"{CONFIG}: pretrained_config.mapping.{key} must be a whole number, not {value!r}",
                hint="the engine's configuration is damaged; build it again",
            )
        return value

    def quantization(self, key: str) -> str:
        """Read one algorithm of the quantization; absent, null and NO_QUANT are ""."""
        table = self.pretrained.get("quantization") or {}
        value = table.get(key) if isinstance(table, Mapping) else None
        return "" if value in {None, "NO_QUANT"} else str(value)

    def flag(self, name: str) -> str:
        """Return a build value as trtllm-build's command line would have said it."""
        plugins = self.build.get("plugin_config")
        tables = (self.build, plugins if isinstance(plugins, Mapping) else {})
        value = next((table[name] for table in tables if name in table), None)
        return _spelled(value)


def compare(settings: BuildSettings, effective: Effective) -> tuple[Difference, ...]:
    """Return what the engine has otherwise than asked, after every change that was predicted."""
    found = list(_facts(settings, effective))
    expected, recorded = effective_flags(settings), _recorded(effective)
    for name in (flags(settings).keys() & recorded) - _UNRECORDED:
        asked, got = expected[name], effective.flag(name)
        if not _same(asked, got):
            found.append(Difference(name, asked, got, name in LIMITS))
    return tuple(sorted(found, key=lambda one: (not one.fatal, one.what)))


def _facts(settings: BuildSettings, effective: Effective) -> list[Difference]:
    kv = next(name for name, fmt in KV_ALGORITHMS.items() if fmt is _kv(settings))
    wanted = {
        "architecture": (settings.architecture, str(effective.pretrained.get("architecture", ""))),
        "tp": (str(settings.tp), str(effective.mapping("tp_size"))),
        "pp": (str(settings.pp), str(effective.mapping("pp_size"))),
        "quant_algo": (settings.quant_algo, effective.quantization("quant_algo")),
        "kv_cache_quant_algo": (kv, effective.quantization("kv_cache_quant_algo")),
    }
    return [
        Difference(what, asked or "none", got or "none", fatal=True)
        for what, (asked, got) in wanted.items()
        if asked != got
    ]


def _kv(settings: BuildSettings) -> object:
    return settings.kv_cache if settings.kv_cache.quantized else KV_ALGORITHMS[""]


def _recorded(effective: Effective) -> set[str]:
    plugins = effective.build.get("plugin_config")
    return {*effective.build, *(plugins if isinstance(plugins, Mapping) else ())}


def _same(asked: str, got: str) -> bool:
    """"auto" is recorded as such or as the model's own dtype."""  # fmt: skip
    if asked == "auto":
        return got in {"auto", "bfloat16", "float16", "float32"}
    return asked.lower() == got.lower()


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "enable" if value else "disable"
    return "disable" if value is None else str(value)
