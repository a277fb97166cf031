"""An examined checkpoint in words: what it is, what lies in it, what was found."""

from collections.abc import Iterator, Sequence

from builders.autopsy import Finding, Inspection
from builders.cli import output

_COUNTS = ("layer", "format", "count", "parameters", "size")


def facts(inspection: Inspection) -> str:
    """Say in our words what a checkpoint is, and how large."""
    known, size = inspection.recognized, inspection.size
    group = f", groups of {known.group}" if known.group else ""
    bits = f"; {size.bits:.4g} bits a quantized weight" if size.quantized_parameters else ""
    exact = "" if size.bits == size.exact_bits else f", exact {size.exact_bits:.4g}"
    pairs = {
        "checkpoint": str(inspection.path),
        "method": f"{known.method} {known.algorithm}".rstrip(),
        "scheme": known.scheme,
        "weights": f"{known.weights.value}{group}, {'' if known.symmetric else 'a'}symmetric",
        "activations": known.activations.value,
        "KV cache": known.kv_cache.value if known.kv_cache.quantized else "none",
        "left alone": _few(known.kept) or "-",
        "runtimes": ", ".join(known.runtimes) or "none known",
        "size": f"{output.size(size.bytes)}, {size.parameters:,} parameters{bits}{exact}",
        "scales": _scales(inspection),
    }
    notes = {"notes": "; ".join(known.notes)} if known.notes else {}
    return output.facts(pairs | notes)


def _scales(inspection: Inspection) -> str:
    size = inspection.size
    if size.scale_bytes_read == size.scale_bytes:
        return f"{output.size(size.scale_bytes)}, all read"
    read = output.size(size.scale_bytes_read)
    return f"{output.size(size.scale_bytes)}, {read} of it looked at (--every-scale reads all)"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def counts(inspection: Inspection) -> str:
    """Count the layers by kind and format."""
    rows = [
        {
            "layer": one.layer,
            "format": one.format,
            "count": one.count,
            "parameters": f"{one.parameters:,}",
            "size": output.size(one.bytes),
        }
        for one in inspection.counts
    ]
    return output.table(rows, _COUNTS)


def findings(inspection: Inspection) -> str:
    """List what was found, alike findings on one line, and say whether the line stops."""
    lines = list(_lines(inspection.findings))
    stops = sum(finding.stops for finding in inspection.findings)
    total = len(inspection.findings)
    warns = _counted(total - stops, "warning")
    verdict = f"sound: {warns}" if total else "sound: nothing found"
    if stops:
        verdict = f"stop: {_counted(stops, 'finding')} that must be mended, {warns}"
    return "\n".join([*lines, verdict])


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        alike.setdefault((finding.rule, finding.what), []).append(finding)
    for same in alike.values():
        first, more = same[0], f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        yield f"{first.severity:<4}  {first.where}{more} {first.what}; {first.hint}"
