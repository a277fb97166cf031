"""Does a checkpoint read and prompt as its base does? Tokenizer, chat template, special tokens."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.recognized import mapping
from builders.autopsy.settings import load

_MODELS: Final = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
_STEPS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_ENDS: Final = ("bos_token", "eos_token", "unk_token", "add_bos_token", "add_eos_token")
_STOPS: Final = ("eos_token_id", "bos_token_id")


def compare(path: Path, base: Path) -> Iterator[Finding]:
    """Find where the text side of a checkpoint differs from its base."""
    yield from _words(path, base)
    mine, its = templates(path), templates(base)
    if mine != its:
        names = ", ".join(
            sorted(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name))
        )
        yield found("chat-template-differs", "chat template", f"differs from the base's ({names})")
    for rule, keys, read in (
        ("special-tokens-differ", _ENDS, special),
        ("padding-differs", ("pad_token",), special),
        ("generation-differs", _STOPS, _generation),
    ):
        yield from _settings(rule, keys, read(path), read(base))


def _settings(
    rule: str, keys: tuple[str, ...], mine: Mapping[str, Any], its: Mapping[str, Any]
) -> Iterator[Finding]:
    for key in keys:
        if mine.get(key) != its.get(key):
            yield found(rule, key, f"is {mine.get(key)!r}, in the base {its.get(key)!r}")


def _words(path: Path, base: Path) -> Iterator[Finding]:
    """A tokenizer may be saved anew by another version, but not with other words or merges."""
    for name in _MODELS:
        mine, its = path / name, base / name
        if mine.is_file() and its.is_file() and mine.read_bytes() != its.read_bytes():
            yield found("tokenizer-differs", name, "differs from the base's")
    mine, its = path / "tokenizer.json", base / "tokenizer.json"
    if not its.is_file() or (mine.is_file() and mine.read_bytes() == its.read_bytes()):
        return
    if not mine.is_file():
        yield found("tokenizer-differs", "tokenizer.json", "is missing, the base has one")
        return
    yield from _inside(load(mine), load(its))


def _inside(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Finding]:
    facts: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
        "vocabulary": lambda data: mapping(data.get("model")).get("vocab"),
        "merges": _merges,
        "added tokens": _added,
    }
    for what, fact in facts.items():
        if fact(one) != fact(other):
            yield found("tokenizer-differs", "tokenizer.json", f"has another {what} than the base")
    for step in _STEPS:
        if one.get(step) != other.get(step):
            what = f"has another {step} than the base"
            yield found("tokenizer-step-differs", "tokenizer.json", what)


def _merges(data: Mapping[str, Any]) -> list[object]:
    """Merges are pairs, in older files one text with a space."""
    merges = mapping(data.get("model")).get("merges")
    pairs = merges if isinstance(merges, list) else []
    return [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in pairs]


def _added(data: Mapping[str, Any]) -> dict[object, object]:
    added = data.get("added_tokens")
    tokens = [mapping(one) for one in added] if isinstance(added, list) else []
    return {one.get("id"): one.get("content") for one in tokens}


def templates(path: Path) -> dict[str, str]:
    """Return the chat templates by name, wherever this version of the tools keeps them."""
    found_in = load(path / "tokenizer_config.json").get("chat_template")
    found_in = load(path / "chat_template.json").get("chat_template", found_in)
    listed = found_in if isinstance(found_in, list) else [{"name": "default", "template": found_in}]
    named = {str(mapping(one).get("name")): mapping(one).get("template") for one in listed}
    files = {"default": path / "chat_template.jinja"}
    files |= {file.stem: file for file in (path / "additional_chat_templates").glob("*.jinja")}
    named |= {name: file.read_text("utf-8") for name, file in files.items() if file.is_file()}
    return {name: text.rstrip("\n") for name, text in named.items() if isinstance(text, str)}


def special(path: Path) -> dict[str, object]:
    """Return special tokens and flags, each as text."""
    said = {**load(path / "special_tokens_map.json"), **load(path / "tokenizer_config.json")}
    tokens = {key: mapping(value).get("content", value) for key, value in said.items()}
    return {key: token for key, token in tokens.items() if token is not None}


def _generation(path: Path) -> dict[str, object]:
    """Return where generation stops; one number and a list of it are the same."""
    said = load(path / "generation_config.json")
    return {key: value if isinstance(value, list) else [value] for key, value in said.items()}
