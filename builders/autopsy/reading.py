"""Open a checkpoint that may be damaged: read what can be read, and list what is wrong with it.

`Checkpoint.open` refuses at the first defect; an examination wants to see them all.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.recognized import mapping
from builders.checkpoint import (
    INDEX,
    PICKLES,
    TOKENIZER_FILES,
    Checkpoint,
    TensorInfo,
    read_header,
    weight_files,
)
from builders.errors import UsageError

_NUMBERED: Final = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.safetensors$")
_GGUF: Final = "convert or fetch the safetensors weights: nothing else is read here"


@dataclass(frozen=True, slots=True)
class Opened:
    """What could be read of a checkpoint, what is wrong with its files, and the tensors lost."""

    checkpoint: Checkpoint
    findings: tuple[Finding, ...]
    lost: frozenset[str]


def read(path: Path) -> Opened:
    """Read a checkpoint with defects and all; without config.json or weights: a `UsageError`."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such checkpoint directory")
    config = _object(path / "config.json")
    present = sorted(path.glob("*.safetensors"))
    if not present and not (path / INDEX).is_file():
        raise UsageError(f"{path}: no safetensors weights", hint=_GGUF)
    listed = mapping(_object(path / INDEX).get("weight_map")) if (path / INDEX).is_file() else {}
    index = {str(name): str(file) for name, file in listed.items()}
    wanted = weight_files([file.name for file in present], index)
    tensors: dict[str, TensorInfo] = {}
    findings = [*_shards(present, wanted, index)]
    for file in wanted:
        findings += _read_shard(path / file, tensors) if path / file in present else ()
    if index:
        bad = {one.where for one in findings if one.rule.startswith("shard-")}
        findings += _index(index, tensors, set(wanted) - bad)
    findings += _files(path)
    gone = {name for name, file in index.items() if file in wanted and name not in tensors}
    return Opened(Checkpoint(path, config, tensors), tuple(findings), frozenset(gone))


def _object(file: Path) -> Mapping[str, object]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file", hint="is this a model directory?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not valid JSON ({error})", hint="fetch it again") from error
    if not isinstance(data, dict):
        raise UsageError(f"{file}: must hold a JSON object", hint="fetch it again")
    return data


def _shards(present: list[Path], wanted: list[str], index: Mapping[str, str]) -> Iterator[Finding]:
    names = {file.name for file in present}
    for file in wanted:
        if file not in names:
            yield found("shard-missing", file, "is named by the index but is not there")
    for file in sorted(names - set(wanted)):
        yield found("file-unread", file, "is not among the files that readers load")
    if not index and len(wanted) > 1:
        yield found("index-missing", INDEX, f"is missing beside {len(wanted)} shards")
    numbered = [match for match in map(_NUMBERED.match, wanted) if match]
    for stem, total in sorted({(match[1], int(match[3])) for match in numbered}):
        there = {int(match[2]) for match in numbered if match[1] == stem}
        for number in sorted(set(range(1, total + 1)) - there):
            name = f"{stem}-{number:05d}-of-{total:05d}.safetensors"
            yield found("shard-missing", name, "is missing from the numbered shards")


def _read_shard(file: Path, tensors: dict[str, TensorInfo]) -> Iterator[Finding]:
    """Add the tensors of one shard to ``tensors``, and find what is wrong with its header."""
    try:
        header = read_header(file)
    except (UsageError, OSError) as error:
        yield found("shard-damaged", file.name, f"cannot be read: {error}")
        return
    for name in sorted(header.keys() & tensors.keys()):
        yield found("index-disagrees", name, f"is in {tensors[name].file} and in {file.name}")
    tensors |= header
    placed = sorted((info.begin, info.end, name) for name, info in header.items())
    for (_, end, _), (begin, _, name) in pairwise(placed):
        if begin != end:
            what = "overlaps the tensor before it" if begin < end else "follows bytes of no tensor"
            yield found("tensors-overlap", name, f"{what} in {file.name}")
    for name, info in header.items():
        if not info.bytes:
            yield found("tensor-empty", name, f"has the shape {list(info.shape)} and no data")


def _index(
    index: Mapping[str, str], tensors: Mapping[str, TensorInfo], readable: set[str]
) -> Iterator[Finding]:
    for name, file in sorted(index.items()):
        info = tensors.get(name)
        if info is None and file in readable:
            yield found("index-disagrees", name, f"is not in {file}, where the index has it")
        elif info is not None and info.file != file:
            yield found("index-disagrees", name, f"is in {info.file}, not in {file}")
    for name in sorted(tensors.keys() - index.keys()):
        what = f"is in {tensors[name].file}, but the index does not name it"
        yield found("index-disagrees", name, what)


def _files(path: Path) -> Iterator[Finding]:
    """Find files that others cannot read, that run code when loaded, or that are missing."""
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
        mode = stat.S_IMODE(file.stat().st_mode)
        if not os.access(file, os.R_OK):
            yield found("file-unreadable", file.name, "cannot be read")
        elif not mode & stat.S_IROTH:
            yield found(
                "file-private", file.name, f"can be read by its owner or group only (mode {mode:o})"
            )
        if file.suffix in PICKLES:
            yield found("pickle", file.name, "is a pickle beside the safetensors weights")
        if file.suffix == ".py":
            yield found("remote-code", file.name, "is code that ships with the checkpoint")
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        yield found("tokenizer-missing", str(path), f"has none of {', '.join(TOKENIZER_FILES)}")
