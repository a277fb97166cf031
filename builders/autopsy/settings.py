"""config.json and its neighbours: rotary settings in both forms, remote code, the vocabulary."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from builders.autopsy.finding import Finding, Severity, found
from builders.autopsy.recognized import mapping
from builders.checkpoint import Checkpoint

_LARGEST: Final = 64 << 20  # of a tokenizer.json that is worth reading here
_KINDS: Final = ("type", "rope_type")


def examine(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Find settings that some reader gets wrong."""
    yield from _rope(checkpoint.config)
    for file in ("config.json", "tokenizer_config.json"):
        if load(checkpoint.path / file).get("auto_map"):
            yield found("remote-code", file, "names code that ships with the checkpoint (auto_map)")
    kind = load(checkpoint.path / "tokenizer_config.json").get("tokenizer_class")
    if kind == "TokenizersBackend":
        what = "names a class of transformers 5 (TokenizersBackend), which 4.57 does not have"
        yield found("tokenizer-class", "tokenizer_config.json", what)
    yield from _vocabulary(checkpoint)


def load(file: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty for a file that is absent or holds none."""
    try:
        return mapping(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def rope(config: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the rotary settings as transformers 5 says them and as 4 does; empty if not said.

    Where layers of several kinds have their own, those of full attention.
    """
    text = mapping(config.get("text_config"))
    keys = {"rope_parameters", "rope_theta", "rope_scaling"}
    table = text if keys & text.keys() else config
    new = mapping(table.get("rope_parameters"))
    new = mapping(new.get("full_attention")) or new
    scaling = mapping(table.get("rope_scaling"))
    old = {"rope_theta": table["rope_theta"]} if "rope_theta" in table else {}
    return _one_form(new), _one_form({**old, **scaling})


def _one_form(said: Mapping[str, object]) -> dict[str, object]:
    if not said:
        return {}
    kind = next((said[key] for key in reversed(_KINDS) if said.get(key)), "default")
    return {key: value for key, value in said.items() if key not in _KINDS} | {"rope_type": kind}


def _rope(config: Mapping[str, object]) -> Iterator[Finding]:
    new, old = rope(config)
    said = new or old
    matters = said.get("rope_type", "default") != "default" or said.get("rope_theta") != 10000
    if new and old:
        for key in differing(new, old):
            what = f"says {key} {new[key]} in rope_parameters and {old[key]} beside it"
            yield found("rope-disagrees", "config.json", what)
    elif new and matters:
        what = (
            "has its rotary settings only as transformers 5 says them: 4.57 reads a base of 10000"
        )
        yield found("rope-new-only", "config.json", f"{what} without scaling")
    elif old and matters:
        what = "has its rotary settings only as transformers 4 says them: 5 converts them, but a"
        yield found("rope-old-only", "config.json", f"{what} reader of rope_parameters finds none")


def differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Return the keys that both have, with different values."""
    return sorted(key for key in one.keys() & other.keys() if one[key] != other[key])


def _vocabulary(checkpoint: Checkpoint) -> Iterator[Finding]:
    """No token lies beyond the rows of the embedding.

    Of added tokens that only warns: Gemma 3 1B shares its tokenizer with larger siblings, whose
    token for an image it has no row for, and never gets.
    """
    file = checkpoint.path / "tokenizer.json"
    rows = checkpoint.number("vocab_size", 0)
    if not rows or not file.is_file() or file.stat().st_size > _LARGEST:
        return
    data = load(file)
    added = data.get("added_tokens")
    own = mapping(mapping(data.get("model")).get("vocab")).values()
    more = [mapping(one).get("id") for one in added] if isinstance(added, list) else []
    for kind, ids, severity in (
        ("token", own, Severity.STOP),
        ("the added token", more, Severity.WARN),
    ):
        largest = max((one for one in ids if isinstance(one, int)), default=0)
        if largest >= rows:
            what = f"has {kind} {largest}, but the model has {rows} rows of words"
            yield found("vocabulary-too-large", "tokenizer.json", what, severity=severity)
            return
