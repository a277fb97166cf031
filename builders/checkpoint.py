"""A Hugging Face model directory, read without torch: facts from JSON and safetensors headers.

Refuses what must not be loaded (pickles) and what cannot be (truncated or missing weights) before
anything heavy starts.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Final, Self

from builders import digests
from builders.bundle import Artifact, fingerprint
from builders.errors import UsageError

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
_MAX_HEADER: Final = 100 << 20  # the safetensors library's own limit
_DTYPE_BYTES: Final = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry in a safetensors header: the file that holds it, dtype and shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return self.end - self.begin


@dataclass(frozen=True)
class Checkpoint:
    """A model directory that was found complete and safe to read."""

    path: Path
    config: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the facts; every defect is a `UsageError` that names the file."""
        if not path.is_dir():
            raise UsageError(f"{path}: no such checkpoint directory")
        if not any(path.iterdir()):
            raise UsageError(f"{path}: the checkpoint directory is empty")
        _refuse_pickles(path)
        config = _json(path / "config.json")
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise UsageError(
                f"{path}: no tokenizer ({', '.join(TOKENIZER_FILES)})",
                hint="copy the tokenizer files of the original model beside the weights",
            )
        return cls(path, config, _tensors(path))

    @property
    def architecture(self) -> str:
        """The class name that transformers would load, such as ``LlamaForCausalLM``."""
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise UsageError(
                f"{self.path / 'config.json'}: architectures is missing",
                hint='add the model class, for example "architectures": ["LlamaForCausalLM"]',
            )
        return names[0]

    @property
    def quantization(self) -> Mapping[str, object] | None:
        """What the checkpoint says of its own quantization, or None when it is unquantized."""
        declared = self.config.get("quantization_config")
        if isinstance(declared, Mapping):
            return declared
        beside = self.path / "hf_quant_config.json"
        return _json(beside) if beside.is_file() else None

    def number(self, key: str, default: int | None = None) -> int:
        """Read a whole number of config.json, looking into ``text_config`` too."""
        text = self.config.get("text_config")
        for table in (self.config, text if isinstance(text, Mapping) else {}):
            value = table.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        if default is None:
            raise UsageError(f"{self.path / 'config.json'}: {key} is missing or not a number")
        return default

    def _count(self, key: str, default: int | None = None) -> int:
        found = self.number(key, default)
        if found < 1:
            raise UsageError(
                f"{self.path / 'config.json'}: {key} is {found}, but a model has at least one",
                hint="fetch config.json again",
            )
        return found

    @property
    def context(self) -> int:
        """The longest sequence the model was made for, in tokens."""
        return self.number("max_position_embeddings")

    @property
    def layers(self) -> int:
        """The number of decoder layers."""
        return self._count("num_hidden_layers")

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return self._count("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads (grouped-query attention has fewer than query heads)."""
        return self._count("num_key_value_heads", self.heads)

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.number("head_dim", self.number("hidden_size") // self.heads)

    @property
    def parameters(self) -> int:
        """The number of stored weights."""
        return sum(prod(info.shape) for info in self.tensors.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(info.bytes for info in self.tensors.values())

    @cached_property
    def identity(self) -> str:
        """A digest of config, file sizes and tensor headers: cheap, and blind to changed bytes."""
        tensors = {
            name: [info.file, info.dtype, list(info.shape), info.begin]
            for name, info in self.tensors.items()
        }
        return fingerprint({"config": dict(self.config), "tensors": tensors})

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(self.path / name for name in sorted({i.file for i in self.tensors.values()}))

    @cached_property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file that makes the checkpoint, with digest and size (reads all bytes once)."""
        others = (path for path in self.path.iterdir() if path.is_file() and _counts(path))
        found = sorted({*others, *self.shards})
        known = zip(found, digests.digests(found), strict=True)
        return tuple(Artifact(path.name, sha256, path.stat().st_size) for path, sha256 in known)


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in {".md", ".lock", ".safetensors"}


def _refuse_pickles(path: Path) -> None:
    weights = [p for p in path.iterdir() if p.is_file()]
    pickles = sorted(p.name for p in weights if p.suffix in PICKLES)
    if pickles and not any(p.suffix == ".safetensors" for p in weights):
        raise UsageError(
            f"{path / pickles[0]}: pickled weights can run code when loaded and are refused",
            hint="convert them with safetensors' convert tool, or fetch the safetensors revision",
        )


def _json(path: Path) -> Mapping[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", hint="is this a model directory?") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, Mapping):
        raise UsageError(f"{path}: must hold a JSON object")
    return data


def _tensors(path: Path) -> dict[str, TensorInfo]:
    present = sorted(file.name for file in path.glob("*.safetensors"))
    index = path / INDEX
    listed = _listed(index) if index.is_file() else {}
    shards = weight_files(present, listed)
    if not shards:
        raise UsageError(f"{path}: no safetensors weights", hint="only safetensors are read")
    absent = [name for name in shards if name not in present]
    if absent:
        raise UsageError(
            f"{path / absent[0]}: the index names this shard but it is not there",
            hint=f"{len(absent)} of {len(shards)} shards missing; fetch them again",
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        header = read_header(path / shard)
        for name in sorted(header.keys() & tensors.keys()):
            raise UsageError(
                f"{path}: tensor {name} is in {tensors[name].file} and in {shard}",
                hint="keep the files of one revision only",
            )
        tensors |= header
    for name in sorted(listed.keys() - tensors.keys()):
        raise UsageError(f"{index}: tensor {name} is in no shard", hint="fetch the weights again")
    return tensors


def weight_files(present: Sequence[str], listed: Mapping[str, str]) -> list[str]:
    """Return the files that readers load: those of the index, else a single one, else all.

    Others beside them are the same weights once more, such as Mistral's ``consolidated``.
    """
    if listed:
        return sorted(set(listed.values()))
    return [SINGLE] if SINGLE in present else list(present)


def _listed(index: Path) -> dict[str, str]:
    found = _json(index).get("weight_map")
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{index}: weight_map is missing", hint="fetch this file again")
    return {str(name): str(file) for name, file in found.items()}


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read one safetensors header and hold it against the file's size.

    Format: 8 bytes little-endian header length, a JSON object, then the data
    (github.com/huggingface/safetensors, README "Format").
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(_MAX_HEADER, size - 8):
            raise _broken(file, "the header is cut off")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            infos = {name: _info(file, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(file, f"the header cannot be read ({error})") from error
    end = max((info.end for info in infos.values()), default=8 + length)
    if end != size:
        raise _broken(file, f"it has {size} bytes where the header promises {end}")
    return infos


def _info(file: Path, entry: Mapping[str, object], data: int) -> TensorInfo:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("shape and data_offsets must be lists")
    begin, end = (int(offset) for offset in offsets)
    dtype = str(entry["dtype"])
    width = _DTYPE_BYTES.get(dtype)
    if width is not None and end - begin != width * prod(shape):
        raise ValueError(f"{dtype} {shape} does not fill {end - begin} bytes")
    return TensorInfo(file.name, dtype, tuple(shape), data + begin, data + end)


def _broken(file: Path, why: str) -> UsageError:
    return UsageError(f"{file}: truncated or damaged: {why}", hint="fetch this file again")
