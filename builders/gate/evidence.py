"""Evidence: the raw samples of one measurement, and where they were taken. Knows no gate.

A folder holds ``samples.jsonl``, one object a unit in the order of measuring, and ``meta.json``:
what was measured, on which machine, with which libraries. Nothing that is not a number gets in or
out, so no verdict is ever built on one.
"""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import jsonl

SAMPLES: Final = "samples.jsonl"
META: Final = "meta.json"
FORM: Final = 1  # raised when the shape of the files changes
LIBRARIES: Final = ("enginesmith", "torch", "transformers", "lm_eval", "tritonclient")

Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one measurement left: its samples, by unit, and their circumstances."""

    folder: Path
    gate: str
    settings: Mapping[str, Any]
    subject: Mapping[str, Any]
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    samples: tuple[Sample, ...]

    @property
    def foreign(self) -> str:
        """Which other tool measured this; empty for our own evidence."""
        return str(self.subject.get("source", ""))

    def only(self, other: "Evidence") -> "Evidence":
        """Keep the units that the other measurement has too, in this one's order."""
        units = {sample["unit"] for sample in other.samples}
        return replace(self, samples=tuple(s for s in self.samples if s["unit"] in units))

    @classmethod
    def read(cls, folder: Path, *, gate: str) -> Self:
        """Read a folder of a gate's evidence; what is incomplete is an `EvidenceError`."""
        try:
            meta = json.loads(jsonl.text(folder / META), parse_constant=_refuse)
            lines = jsonl.text(folder / SAMPLES).split("\n")[:-1]
            samples = tuple(json.loads(line, parse_constant=_refuse) for line in lines)
            kind = (meta["form"], meta["gate"], meta["units"])
            named = {name: meta[name] for name in ("settings", "subject", "host", "versions")}
        except (UsageError, ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"{folder}: no evidence: {error}", hint="measure again") from error
        if kind != (FORM, gate, len(samples)) or not all("unit" in sample for sample in samples):
            raise EvidenceError(
                f"{folder}: not all of a {gate} measurement: {len(samples)} samples, meant"
                f" {kind[2]} of {kind[1]}",
                hint="measure again",
            )
        return cls(folder=folder, gate=gate, samples=samples, **named)


def write(
    folder: Path,
    *,
    gate: str,
    settings: Mapping[str, object],
    samples: Iterable[Sample],
    subject: Mapping[str, object] | None = None,
) -> None:
    """Write evidence into a folder; each sample has its own ``unit``, all numbers are finite."""
    lines: list[str] = []
    seen: set[str] = set()
    for sample in samples:
        unit = sample["unit"]
        if unit in seen:
            raise EvidenceError(f"{gate}: unit {unit} was measured twice")
        seen.add(unit)
        lines.append(_line(sample, f"{gate}: unit {unit}"))
    if not lines:
        raise EvidenceError(f"{gate}: nothing was measured", hint="give the gate something to read")
    meta = {
        "form": FORM,
        "gate": gate,
        "units": len(lines),
        "settings": settings,
        "subject": subject or {},
        "host": host(),
        "versions": versions(),
    }
    files.write_atomic(folder / SAMPLES, "".join(f"{line}\n" for line in lines))
    files.write_atomic(folder / META, json.dumps(meta, indent=1, sort_keys=True) + "\n")


def units(folder: Path) -> int:
    """Return how many units a folder of evidence has, without reading them."""
    try:
        found = json.loads(jsonl.text(folder / META))["units"]
    except (UsageError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{folder}: no evidence: {error}", hint="measure again") from error
    return int(found)


def pair(
    baseline: Evidence, candidate: Evidence, *, same: Sequence[str] = ()
) -> list[tuple[Sample, Sample]]:
    """Pair the samples by unit, in the baseline's order; they must agree in the fields ``same``."""
    theirs = {sample["unit"]: sample for sample in candidate.samples}
    units = [sample["unit"] for sample in baseline.samples]
    missing = [unit for unit in units if unit not in theirs]
    surplus = sorted(theirs.keys() - set(units))
    if missing or surplus:
        first, model = (missing[0], "baseline") if missing else (surplus[0], "candidate")
        raise EvidenceError(
            f"unit {first} was measured for the {model} only",
            hint="measure both models with the same settings and files",
        )
    pairs = [(sample, theirs[sample["unit"]]) for sample in baseline.samples]
    for ours, other in pairs:
        for field in same:
            if ours[field] != other[field]:
                raise EvidenceError(
                    f"unit {ours['unit']}: the two models were given different {field}",
                    hint="both need the same tokenizer, files and settings",
                )
    return pairs


def versions() -> dict[str, str]:
    """Return the versions of the libraries that matter, of those installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def host() -> dict[str, object]:
    """Return what of this machine may show in a measurement."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _line(sample: Sample, what: str) -> str:
    try:
        return json.dumps(sample, allow_nan=False, sort_keys=True)
    except ValueError:
        raise EvidenceError(
            f"{what}: a score is not a finite number",
            hint="the model computes NaN or infinity: look at its scales",
        ) from None


def _refuse(constant: str) -> float:
    raise EvidenceError(f"{constant} is not a number to judge by", hint="measure again")
