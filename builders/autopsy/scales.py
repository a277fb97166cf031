"""Judge what scales say, and find weights that were never written."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from builders.autopsy.finding import Finding, Severity, found
from builders.autopsy.layers import Role
from builders.autopsy.storage import Judge
from builders.autopsy.stored import KV_PARTS, Examined
from builders.autopsy.values import Files
from builders.checkpoint import TensorInfo

_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "nan": ("scale-nan", "holds NaN"),
    "infinite": ("scale-nan", "is not finite"),
    "negative": ("scale-not-positive", "is zero or negative"),
    "zero": ("scale-not-positive", "is zero or negative"),
    "least": ("scale-not-positive", "is 2^-127 throughout: never written, or all weights are zero"),
    "underflow": ("scale-underflow", "holds blocks whose scale is zero"),
}
_LARGE: Final = 0.5  # of a weight; a contiguous run of zeros is sure to be seen from there on
_ONES: Final = "is exactly 1: nothing was calibrated"
_LOST: Final = "is exactly 1: clamped at 1 by {}: what was calibrated below is lost"
_LATER: Final = "values are cast as they are (fp8_cast); ModelOpt 0.43 and later keep such scales"
_CAST: Final = (
    "calibrate the KV cache; where a plain cast is meant (fp8_cast), leave the scales out"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One scale to be judged: its name, its kind, its entry, and how it is judged."""

    name: str
    kind: str
    info: TensorInfo
    judge: Judge


@dataclass(slots=True, kw_only=True)
class Reading:
    """Bytes of scales, how many of them were read, and what was found in them."""

    total: int = 0
    read: int = 0
    findings: list[Finding] = field(default_factory=list)


def collect(examined: Iterable[Examined]) -> list[Scale]:
    """List the scales of all layers, those of the KV cache included."""
    scales: list[Scale] = []
    for one in examined:
        judges = (
            {name: part.judge for name, part in one.storage.every.items()} if one.storage else {}
        )
        judges |= dict.fromkeys(KV_PARTS & {"k_scale", "v_scale", "kv_scale"}, Judge.SCALE)
        scales += [
            Scale(name=one.layer.name(name), kind=name, info=info, judge=judges[name])
            for name, info in one.layer.parts.items()
            if judges.get(name, Judge.NOTHING) is not Judge.NOTHING
        ]
    return scales


def read(files: Files, scales: list[Scale], limit: int | None, *, kv_clamped: str = "") -> Reading:
    """Judge every scale; whole, if all of them together are at most ``limit`` bytes (None: any).

    ``kv_clamped`` names the tool that raised the KV cache's scales to 1; none can be below.
    """
    reading = Reading(total=sum(scale.info.bytes for scale in scales))
    whole = limit is None or reading.total <= limit
    ones: dict[str, bool] = {}
    for scale in scales:
        looked = files.look(scale.info, scale.judge, whole=whole)
        reading.read += looked.read
        ones[scale.kind] = ones.get(scale.kind, True) and looked.ones
        if looked.problem:
            rule, what = _SAID[looked.problem]
            reading.findings.append(found(rule, scale.name, what))
    cache = [scale.info for scale in scales if scale.kind in KV_PARTS]
    lost = kv_clamped and all(files.least(info) >= 1 for info in cache)
    for kind in sorted(kind for kind, all_ones in ones.items() if all_ones):
        if lost and kind in KV_PARTS:
            found_ones = _ones(kind, _LOST.format(kv_clamped), _LATER, Severity.WARN)
        else:
            found_ones = _ones(kind, _ONES, _CAST if kind in KV_PARTS else "")
        reading.findings.append(found_ones)
    return reading


def _ones(kind: str, what: str, hint: str, severity: Severity | None = None) -> Finding:
    return found("scale-ones", f"every {kind}", what, hint=hint, severity=severity)


def zeros(files: Files, examined: Iterable[Examined]) -> Iterator[Finding]:
    """Find weights that hold nothing but zeros, and linear ones that are zero in large part.

    Weights pruned one by one, or two in four, hardly leave a run of 256 bytes without any.
    """
    for one in examined:
        layer = one.layer
        info = layer.parts.get(layer.codes)
        if info is None or not (len(info.shape) > 1 or layer.role is Role.NORM):
            continue
        share = files.zero_share(info)
        if share == 1:
            rule = "norm-zero" if layer.role is Role.NORM else "weights-zero"
            yield found(rule, layer.name(layer.codes), "is zero wherever one looks")
        elif share >= _LARGE and layer.role is Role.LINEAR:
            what = f"is zero in {share:.0%} of what was looked at"
            yield found("weights-zero-in-part", layer.name(layer.codes), what)
