"""`engine.json`: what an engine directory says of itself. The same inputs write the same bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from builders import files
from builders.errors import UsageError
from builders.formats import Format

FILE: Final = "engine.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine will run: tokens a sequence, requests at once, and how numbers are kept.

    ``kv_cache`` says BF16 when keys and values stay as the model computes them. ``dtype`` is the
    format of everything that is not quantized; None means the checkpoint's own.
    """

    context: int
    concurrency: int = 1
    kv_cache: Format = Format.BF16
    dtype: Format | None = None

    def __post_init__(self) -> None:
        if self.context < 1 or self.concurrency < 1:
            raise UsageError(
                f"an engine needs a context and a concurrency of at least 1, not "
                f"{self.context} and {self.concurrency}",
                hint="mend context and concurrency in [serve]",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The runtime and its version, the settings, and how the weights are stored ("": plainly)."""

    runtime: str
    version: str
    settings: EngineSettings
    quantization: str

    @classmethod
    def of(cls, runtime: str, settings: EngineSettings, quantization: str) -> Self:
        """Describe an engine of a runtime whose version is this package's own."""
        version = metadata.version("enginesmith")
        return cls(runtime=runtime, version=version, settings=settings, quantization=quantization)

    def write(self, engine: Path) -> None:
        """Write it into an engine directory."""
        settings = self.settings
        data = {
            "runtime": self.runtime,
            "version": self.version,
            "quantization": self.quantization,
            "settings": {
                "context": settings.context,
                "concurrency": settings.concurrency,
                "kv_cache": settings.kv_cache.value,
                "dtype": settings.dtype.value if settings.dtype else None,
            },
        }
        files.write_atomic(engine / FILE, json.dumps(data, indent=2, sort_keys=True) + "\n")

    @classmethod
    def read(cls, engine: Path) -> Self:
        """Read it back; a directory that is no engine is a `UsageError`."""
        file = engine / FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            return cls(
                runtime=str(data["runtime"]),
                version=str(data["version"]),
                settings=_settings(data["settings"]),
                quantization=str(data["quantization"]),
            )
        except FileNotFoundError:
            raise UsageError(f"{file}: no such file", hint="is this an engine directory?") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file}: not an engine description ({error!r})", hint="build the engine again"
            ) from error


def _settings(data: Mapping[str, object]) -> EngineSettings:
    dtype = data["dtype"]
    return EngineSettings(
        context=int(str(data["context"])),
        concurrency=int(str(data["concurrency"])),
        kv_cache=_format(data["kv_cache"]),
        dtype=None if dtype is None else _format(dtype),
    )


def _format(name: object) -> Format:
    for known in Format:
        if known.value == name:
            return known
    raise ValueError(f"no format {name!r}")
