"""The whole examination: what a checkpoint is, what lies in it, and what is wrong with it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from builders.autopsy import base as against
from builders.autopsy import fused, kv, model, modelopt, scales, settings, tokenizer
from builders.autopsy.finding import Finding, found
from builders.autopsy.layers import Role, layers
from builders.autopsy.reading import Opened, read
from builders.autopsy.recognize import declared, recognize
from builders.autopsy.recognized import Recognized
from builders.autopsy.stored import Examined, examine, is_narrow
from builders.autopsy.values import Files
from builders.checkpoint import Checkpoint

LIMIT: Final = 1 << 30  # bytes of scales that are read whole: seconds from any disk
_TOLERANCE: Final = 0.01
# What a lost shard explains: these say nothing new about its tensors.
_FOLLOWS: Final = frozenset({
    "base-tensor-missing", "part-missing", "input-scale-missing", "part-orphan",
    "kv-scale-missing", "layer-missing", "output-missing",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many layers of one kind have one format, with their weights and bytes."""

    layer: str
    format: str
    count: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of all tensors, of the quantized layers, and what their formats take to the byte."""

    bytes: int
    parameters: int
    quantized_bytes: int
    quantized_parameters: int
    exact_bytes: int
    scale_bytes: int
    scale_bytes_read: int

    @property
    def bits(self) -> float:
        """Bits a quantized weight takes here, scales included; 0 where nothing is quantized."""
        return 8 * self.quantized_bytes / (self.quantized_parameters or 1)

    @property
    def exact_bits(self) -> float:
        """Bits a quantized weight takes in these formats."""
        return 8 * self.exact_bytes / (self.quantized_parameters or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """One examined checkpoint; sound when no finding stops the line."""

    path: Path
    recognized: Recognized
    counts: tuple[Count, ...]
    size: Size
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found that stops the line."""
        return not any(finding.stops for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return the examination as one JSON object."""
        return {
            "checkpoint": str(self.path),
            "sound": self.sound,
            "recognized": self.recognized.as_json(),
            "size": asdict(self.size)
            | {"bits": self.size.bits, "exact_bits": self.size.exact_bits},
            "counts": [asdict(count) for count in self.counts],
            "findings": [asdict(finding) for finding in self.findings],
        }


def inspect(path: Path, *, base: Checkpoint | None = None, limit: int | None = LIMIT) -> Inspection:
    """Examine a checkpoint by headers and scales; seconds for hundreds of gigabytes.

    ``base`` is the checkpoint it was made from. Scales of more than ``limit`` bytes together are
    judged by samples (None: never). What cannot be examined at all is a `UsageError`.
    """
    opened = read(path)
    checkpoint = opened.checkpoint
    recognized = recognize(checkpoint)
    grouped = layers(checkpoint.tensors)
    examined = {module: examine(layer, recognized) for module, layer in grouped.items()}
    with Files(path) as files:
        collected = scales.collect(examined.values())
        reading = scales.read(files, collected, limit, kv_clamped=recognized.kv_clamped)
        size = _size(examined.values(), reading)
        findings = [
            *opened.findings,
            *_declared(checkpoint, recognized, examined.values()),
            *(finding for one in examined.values() for finding in one.findings),
            *kv.examine(grouped, checkpoint.tensors, recognized),
            *reading.findings,
            *fused.examine(grouped, files),
            *scales.zeros(files, examined.values()),
            *model.examine(checkpoint, grouped, files),
            *settings.examine(checkpoint),
            *_sized(size),
        ]
    if base is not None:
        findings += against.compare(checkpoint, examined, base)
        findings += tokenizer.compare(path, base.path)
    return Inspection(
        path=path,
        recognized=recognized,
        counts=tuple(_counts(examined.values())),
        size=size,
        findings=_ordered(findings, opened),
    )


def _declared(
    checkpoint: Checkpoint, recognized: Recognized, examined: Iterable[Examined]
) -> Iterator[Finding]:
    """Both declarations say the same, and every quantized checkpoint has one."""
    if recognized.method == "modelopt":
        yield from modelopt.contradictions(checkpoint, declared(checkpoint))
    narrow = [one.layer.module for one in examined if is_narrow(one.layer)]
    if recognized.method == "unquantized" and narrow:
        what = f"declares nothing, but {narrow[0]} is quantized ({len(narrow)} such layers)"
        yield found("declaration-missing", "config.json", what)
    quiet = [one.layer.module for one in examined if one.quietly]
    if quiet:
        what = f"is left alone though nothing says so ({len(quiet)} such layers)"
        yield found("layers-kept-silently", quiet[0], what)


def _size(examined: Iterable[Examined], reading: scales.Reading) -> Size:
    every = list(examined)
    narrow = [one for one in every if one.storage]
    return Size(
        bytes=sum(info.bytes for one in every for info in one.layer.parts.values()),
        parameters=sum(one.parameters for one in every),
        quantized_bytes=sum(one.bytes for one in narrow),
        quantized_parameters=sum(one.parameters for one in narrow),
        exact_bytes=sum(one.exact for one in narrow),
        scale_bytes=reading.total,
        scale_bytes_read=reading.read,
    )


def _sized(size: Size) -> Iterator[Finding]:
    if abs(size.quantized_bytes - size.exact_bytes) > _TOLERANCE * size.exact_bytes:
        what = f"take {size.bits:.3f} bits a weight where their formats take {size.exact_bits:.3f}"
        yield found("size-differs", "quantized layers", what)


def _counts(examined: Iterable[Examined]) -> Iterator[Count]:
    rows: dict[tuple[str, str], list[Examined]] = {}
    for one in examined:
        if one.layer.codes:
            kind = "norm" if one.layer.role is Role.NORM else one.layer.kind
            rows.setdefault((kind, one.format), []).append(one)
    for (kind, format_), same in sorted(rows.items(), key=_bytes, reverse=True):
        yield Count(
            layer=kind,
            format=format_,
            count=len(same),
            parameters=sum(one.parameters for one in same),
            bytes=sum(one.bytes for one in same),
        )


def _bytes(row: tuple[tuple[str, str], list[Examined]]) -> int:
    return sum(one.bytes for one in row[1])


def _ordered(findings: list[Finding], opened: Opened) -> tuple[Finding, ...]:
    """Put what stops the line first, and drop what a lost shard explains."""
    kept = [
        finding
        for finding in dict.fromkeys(findings)
        if not (opened.lost and finding.rule in _FOLLOWS)
    ]
    return tuple(sorted(kept, key=lambda finding: not finding.stops))
