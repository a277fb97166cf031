"""All that a template may see. Knows nothing of Jinja, and takes no value that has no place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from builders.errors import UsageError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
INT32_MAX: Final = 2**31 - 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


def _installed() -> str:
    return version("enginesmith")


def refuse_name(name: str) -> None:
    """Refuse what cannot name a model at Triton, and so a directory."""
    if not NAME.match(name) or ".." in name:
        raise UsageError(
            f"serve.name {name!r} cannot name a model",
            hint="up to 128 letters, digits, _ . and -, a letter or digit first, never ..",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApi:
    """TensorRT-LLM's LLM API: its arguments, all but the model."""

    arguments: Mapping[str, object]

    def __post_init__(self) -> None:
        for key in ("model", "triton_config"):
            if key in self.arguments:
                raise UsageError(
                    f"the LLM API's {key} is the repository's own", hint="leave it out"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled engine of TensorRT-LLM: the requests that it was built for, and its memory.

    ``paged_context`` says that context attention reads the paged cache, which chunked context and
    the reuse of cached blocks need; ``kv_fraction`` is the share of free memory for the cache.
    """

    batch: int
    paged_context: bool = True
    kv_fraction: float = 0.9

    def __post_init__(self) -> None:
        if isinstance(self.batch, bool) or not 1 <= self.batch <= INT32_MAX:
            raise UsageError(f"the engine's max_batch_size {self.batch!r} is out of range")
        if not 0 < self.kv_fraction <= 1:
            raise UsageError(
                f"the KV cache cannot have {self.kv_fraction} of the free memory",
                hint="0.9 is usual",
            )

    @property
    def tokenizers(self) -> int:
        """How many processes cut texts; NVIDIA's docs: one is too few, five work well."""
        return min(self.batch, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """vLLM's engine arguments, all but the model."""

    arguments: Mapping[str, object]

    def __post_init__(self) -> None:
        if "model" in self.arguments:
            raise UsageError("vLLM's model is the repository's own", hint="leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The facts of one model repository; its field names are the template's only variables.

    ``name`` is the model's name at Triton and a directory's; ``context`` the longest sequence in
    tokens, ``concurrency`` the requests answered at once, ``max_tokens`` what a request gets that
    asks for no number, ``enginesmith`` the version that renders. Of ``llmapi``, ``compiled`` and
    ``vllm`` each variant reads its own.
    """

    name: str
    context: int
    concurrency: int
    engine_digest: str
    gpu: bool = False
    max_tokens: int = 128
    enginesmith: str = field(default_factory=_installed)
    llmapi: LlmApi | None = None
    compiled: Compiled | None = None
    vllm: Vllm | None = None

    def __post_init__(self) -> None:
        refuse_name(self.name)
        if not _DIGEST.match(self.engine_digest):
            raise UsageError(f"{self.engine_digest!r} is not a SHA-256 in hex")
        for what in ("context", "concurrency", "max_tokens"):
            value = getattr(self, what)
            if isinstance(value, bool) or not 1 <= value <= INT32_MAX:
                raise UsageError(
                    f"serve.{what} {value!r} is out of range", hint=f"1 to {INT32_MAX}"
                )
