"""Make the demo's texts from what every Python ships: nothing is downloaded, nothing committed.

    python demo/make_data.py [FOLDER]      # default: demo/data

calibration.jsonl   docstrings of the standard library, to set scales
corpus.jsonl        one half of the topics of the language reference, for the perplexity gate
choices.jsonl       questions from the other half: which of four continuations is the true one?

The same Python gives the same bytes. Standard library only.
"""
# ruff: noqa: S311, T201 - a program to be run by hand; its dice are loaded on purpose

import ast
import json
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

CALIBRATION = 512  # docstrings
LEAST = 200  # characters of a docstring worth reading
ITEMS = 400
CHOICES = 4
NEAR = 20  # continuations from elsewhere to choose the wrong ones from
CONTEXT = 48  # words, about 96 tokens of the demo model
CONTINUATION = 6  # words, about 12 tokens


def docstrings(library: Path) -> Iterator[str]:
    """Yield the docstrings of the library's own modules, in the order of their files."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(library.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text


def calibration(library: Path) -> list[dict[str, object]]:
    """Choose long docstrings, each once."""
    texts = dict.fromkeys(text for text in docstrings(library) if len(text) >= LEAST)
    chosen = random.Random(0).sample(list(texts), min(CALIBRATION, len(texts)))
    return [{"text": text} for text in chosen]


def corpus(names: Iterable[str]) -> list[dict[str, object]]:
    """Return the topics as documents."""
    return [{"id": name, "text": topics[name]} for name in names]


def nearest(ends: Iterable[str], size: int) -> list[str]:
    """Return the continuations nearest in length, which so gives nothing away."""
    return sorted(set(ends), key=lambda end: (abs(len(end) - size), end))[:NEAR]


def choices(names: Iterable[str]) -> list[dict[str, object]]:
    """Ask for the true continuation among three from other topics."""
    dice = random.Random(0)
    words = {name: re.findall(r"\s*\S+", topics[name]) for name in names}
    places = [
        (name, start)
        for name, found in words.items()
        for start in range(0, len(found) - CONTEXT - CONTINUATION + 1, CONTEXT + CONTINUATION)
    ]
    ends = {
        (name, start): "".join(words[name][start + CONTEXT :][:CONTINUATION])
        for name, start in places
    }
    items: list[dict[str, object]] = []
    for name, start in sorted(dice.sample(places, min(ITEMS, len(places)))):
        truth = ends[name, start]
        others = nearest(
            (end for place, end in ends.items() if place[0] != name and end != truth), len(truth)
        )
        offered = [truth, *dice.sample(others, CHOICES - 1)]
        dice.shuffle(offered)
        context = "".join(words[name][start : start + CONTEXT]).strip()
        answer = offered.index(truth)
        items.append({"topic": name, "context": context, "choices": offered, "answer": answer})
    return items


def write(path: Path, items: list[dict[str, object]]) -> None:
    """Write one JSON object a line, and say so."""
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    print(f"{path}: {len(items)} lines")


def main(folder: Path) -> None:
    """Make the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(topics)
    write(folder / "calibration.jsonl", calibration(Path(sysconfig.get_path("stdlib"))))
    write(folder / "corpus.jsonl", corpus(names[0::2]))
    write(folder / "choices.jsonl", choices(names[1::2]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
