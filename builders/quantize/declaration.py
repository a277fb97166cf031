"""What ModelOpt's exports declare of themselves, in its words, so that every reader agrees."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from builders import files
from builders.autopsy import modelopt
from builders.checkpoint import read_header

BESIDE: Final = modelopt.BESIDE


def complete(out: Path, kept: Iterable[str]) -> None:
    """Say in an export what ModelOpt does not: all that was left alone, and experts by their names.

    It forgets embeddings of a class of their own, and in mixtures of formats it names experts as
    transformers holds them, which is one module a layer.
    """
    beside, config = _read(out / BESIDE), _read(out / "config.json")
    said, inside = beside["quantization"], config["quantization_config"]
    if "quantized_layers" in said:
        names = _weights(out)
        said["quantized_layers"] = inside["quantized_layers"] = {
            one: settings
            for name, settings in said["quantized_layers"].items()
            for one in _inside(name, names)
        }
        for group in inside["config_groups"].values():
            group["targets"] = [one for name in group["targets"] for one in _inside(name, names)]
    else:
        known = said["exclude_modules"]
        more = [name for name in kept if not any(fnmatchcase(name, glob) for glob in known)]
        said["exclude_modules"] = inside["ignore"] = sorted({*known, *more})
    files.write_atomic(out / BESIDE, json.dumps(beside, indent=4))
    files.write_atomic(out / "config.json", json.dumps(config, indent=4))


def _weights(out: Path) -> list[str]:
    """Name the modules of an export that have scales."""
    names = (name for shard in sorted(out.glob("*.safetensors")) for name in read_header(shard))
    return sorted(
        name.removesuffix(".weight_scale") for name in names if name.endswith(".weight_scale")
    )


def _inside(name: str, modules: Collection[str]) -> list[str]:
    """Return a module, or those that lie in it where it is no layer itself."""
    return [name] if name in modules else [one for one in modules if one.startswith(f"{name}.")]


def excluded(kept: Iterable[str], quantized: Collection[str]) -> list[str]:
    """Sum up what is left alone by the shortest names, ending in a star, that match nothing else.

    As ModelOpt does: a name is cut at its dots only; where ``block*`` would match a quantized
    layer, ``block.*`` is tried, then the next longer name.
    """
    taken = {prefix for name in quantized for prefix in _prefixes(name)}
    found: set[str] = set()
    for name in kept:
        for pattern in _patterns(name):
            if pattern not in taken:
                found.add(pattern)
                break
    return sorted(found)


def _prefixes(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name[:end]}*" for end in range(len(name) + 1))


def _patterns(name: str) -> Iterator[str]:
    for at, letter in enumerate(name):
        if letter == ".":
            yield f"{name[:at]}*"
            yield f"{name[:at]}.*"
    yield name


def _read(path: Path) -> dict[str, Any]:
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dict(found)
