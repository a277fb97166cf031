"""Keep the layers that predict further tokens (MTP) in an export, byte for byte.

transformers has no code for them in most models and drops their tensors, but runtimes draft with
them (vLLM, SGLang and TensorRT-LLM for GLM-4.5, DeepSeek-V3, Qwen3-Next).
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Final

from builders import files
from builders.checkpoint import INDEX, SINGLE, Checkpoint, TensorInfo, read_header
from builders.quantize import placing
from builders.quantize.placing import Layout, Planned
from builders.quantize.shapes import is_further

_PIECE: Final = 1 << 26  # bytes that memory holds at once


def keep(source: Checkpoint, out: Path) -> None:
    """Write into one more shard what an export lacks of such layers, and index all shards again."""
    shards = sorted(out.glob("*.safetensors"))
    headers = {shard: read_header(shard) for shard in shards}
    written = {name for header in headers.values() for name in header}
    lost = {
        name: info
        for name, info in source.tensors.items()
        if name not in written and is_further(name, source)
    }
    if not lost:
        return
    count = len(shards) + 1
    where, total = dict[str, str](), sum(info.bytes for info in lost.values())
    for number, shard in enumerate(shards, start=1):
        renamed = shard.with_name(_name(number, count))
        shard.rename(renamed)
        where |= dict.fromkeys(headers[shard], renamed.name)
        total += sum(info.bytes for info in headers[shard].values())
    where |= dict.fromkeys(lost, _name(count, count))
    _copy(source, lost, out / _name(count, count))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    files.write_atomic(out / INDEX, json.dumps(index, indent=2) + "\n")


def _name(number: int, count: int) -> str:
    return f"{Path(SINGLE).stem}-{number:05d}-of-{count:05d}.safetensors"


def _copy(source: Checkpoint, tensors: dict[str, TensorInfo], target: Path) -> None:
    planned = [
        Planned(name=name, dtype=info.dtype, shape=info.shape, bytes=info.bytes)
        for name, info in tensors.items()
    ]
    layout = Layout.of(planned)
    by_file = sorted(tensors.items(), key=lambda item: (item[1].file, item[1].begin))
    with target.open("xb+") as written:
        layout.begin(written.fileno())
        for file, group in groupby(by_file, key=lambda item: item[1].file):
            with (source.path / file).open("rb") as read:
                for name, info in group:
                    _transfer(read.fileno(), info, written.fileno(), layout.offsets[name])


def _transfer(read: int, info: TensorInfo, written: int, offset: int) -> None:
    for at in range(0, info.bytes, _PIECE):
        piece = memoryview(bytearray(min(_PIECE, info.bytes - at)))
        placing.read(read, piece, info.begin + at)
        placing.write(written, piece, offset + at)
