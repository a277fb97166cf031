"""Cut texts into tokens by the files of a model's folder, without its weights and without torch."""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from builders.errors import ToolError, UsageError

_EXTRA: Final = "pip install 'enginesmith[eval]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A tokenizer: what it cuts, what stands before a text, and what the model's files say.

    ``prefix`` is the beginning of a sequence, else its end. ``context`` is the most tokens that
    the model was made for; None where no file says it.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[int], str]
    prefix: int
    vocabulary: int
    context: int | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's tokenizer.json and config.json; what cannot be read is named."""
        if not folder.is_dir():
            raise UsageError(
                f"{folder}: no such folder",
                hint="give the folder of the model's tokenizer.json and config.json",
            )
        config = {**_json(folder / "config.json")}
        inner = config.get("text_config")
        config |= inner if isinstance(inner, dict) else {}
        own = _own(folder) if (folder / "tokenizer.json").is_file() else _others(folder)
        ends = _json(folder / "generation_config.json").get("eos_token_id")
        last = _first(ends, config.get("eos_token_id"), own.eos)
        return cls(
            encode=own.encode,
            decode=own.decode,
            prefix=_prefix(folder, own.bos, last),
            vocabulary=int(config.get("vocab_size") or own.size),
            context=config.get("max_position_embeddings"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    encode: Callable[[str], list[int]]
    decode: Callable[[int], str]
    bos: int | None
    eos: int | None
    size: int


def _own(folder: Path) -> _Own:
    """Read tokenizer.json; what stands before a text is its own to say, as in transformers."""
    library = _library("tokenizers")
    try:
        inner: Any = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more exact
        raise UsageError(f"{folder / 'tokenizer.json'}: {error}") from error
    inner.no_padding()
    inner.no_truncation()
    said = _json(folder / "tokenizer_config.json")
    return _Own(
        encode=lambda text: list(inner.encode(text).ids),
        decode=lambda token: str(inner.decode([token], skip_special_tokens=False)),
        bos=_numbered(inner, said.get("bos_token")),
        eos=_numbered(inner, said.get("eos_token")),
        size=int(inner.get_vocab_size()),
    )


def _others(folder: Path) -> _Own:
    """Read a tokenizer of another form, as transformers converts it."""
    try:
        inner: Any = _library("transformers").AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder}: the tokenizer cannot be loaded ({error})",
            hint="give the folder that holds the model's tokenizer.json",
        ) from error
    return _Own(
        encode=lambda text: list(inner(text, verbose=False)["input_ids"]),
        decode=lambda token: str(inner.decode([token])),
        bos=inner.bos_token_id,
        eos=inner.eos_token_id,
        size=len(inner),
    )


def _library(name: str) -> Any:  # noqa: ANN401 - a module without types
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolError(f"cutting texts needs {name}: {error}", hint=_EXTRA) from error


def _numbered(inner: Any, said: object) -> int | None:  # noqa: ANN401 - untyped
    """Return the number of a special token, which is a text or an object with one."""
    text = said.get("content") if isinstance(said, Mapping) else said
    return inner.token_to_id(text) if isinstance(text, str) else None


def _prefix(folder: Path, *known: int | None) -> int:
    found = next((token for token in known if token is not None), None)
    if found is None:
        raise UsageError(
            f"{folder}: no file names a token that begins or ends a sequence",
            hint="bos_token in tokenizer_config.json, or eos_token_id in config.json",
        )
    return found


def _first(*said: object) -> int | None:
    """Return the first that is there; of several tokens that end a sequence the least."""
    found = next((one for one in said if one not in (None, [])), None)
    if isinstance(found, list):
        return min(map(int, found))
    return int(found) if isinstance(found, int) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: not valid JSON ({error})") from error
    return found if isinstance(found, dict) else {}
