"""Keep the layers that predict further tokens (MTP) in an export, byte for byte.

transformers has no code for them in most models and drops their tensors, but runtimes draft with
them (vLLM, SGLang and TensorRT-LLM for GLM-4.5, DeepSeek-V3, Qwen3-Next).
"""

from itertools import groupby
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint, TensorInfo, read_header
from builders.quantize import placing
from builders.quantize.placing import Layout, Planned
from builders.quantize.shapes import is_further

_PIECE: Final = 1 << 26  # bytes that memory holds at once


def keep(source: Checkpoint, out: Path) -> None:
    """Write into one more shard what an export lacks of such layers, and index all shards again."""
    lost = {name: info for name, info in source.tensors.items() if is_further(name, source)}
    if not lost:
        return
    headers = {file: read_header(file) for file in sorted(out.glob("*.safetensors"))}
    written = {name for header in headers.values() for name in header}
    lost = {name: info for name, info in lost.items() if name not in written}
    if not lost:
        return
    count = len(headers) + 1
    for number, file in enumerate(headers, start=1):
        file.rename(file.with_name(placing.shard_name(number, count)))
    _copy(source, lost, out / placing.shard_name(count, count))
    every = (*headers.values(), lost)
    where = {
        name: placing.shard_name(number, count)
        for number, held in enumerate(every, start=1)
        for name in held
    }
    total = sum(info.bytes for held in every for info in held.values())
    placing.write_index(out, where, total)


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
