"""Perplexity of every recipe on the demo model: what `expects` in the recipes and the docs say.

    python tests/bench/recipes.py [RECIPE …]

Prints a Markdown table: the change of perplexity over 60 windows of 512 tokens of the held-out
corpus, computed by the embedded runtime from the exported bytes.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from math import exp
from pathlib import Path

from builders import engine
from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, Recipe, shipped
from builders.scorer import Scorer

DEMO = Path(__file__).parents[2] / "demo"
CALIBRATION = Calibration(files=(DEMO / "data" / "calibration.jsonl",), samples=256, length=256)
WINDOW, WINDOWS = 512, 60


def main(names: list[str]) -> None:
    source = Checkpoint.open(DEMO / "model")
    recipes = shipped()
    with tempfile.TemporaryDirectory() as folder:
        base = perplexity(source.path, Format.BF16, Path(folder) / "base")
        print(f"| recipe | scheme | perplexity (BF16: {base:.3f}) | change |\n|---|---|---|---|")
        for name in names or [one.name for one in recipes.values() if one.backend == "modelopt"]:
            row(source, recipes[name], Path(folder) / name, base)


def row(source: Checkpoint, recipe: Recipe, place: Path, base: float) -> None:
    out = place / "out"
    out.mkdir(parents=True)
    quantize(source, recipe, CALIBRATION, out, silent)
    found = perplexity(out, recipe.kv_cache, place / "engine")
    change = found / base - 1
    print(f"| {recipe.name} | {recipe.scheme} | {found:.3f} | {change:+.2%} |", flush=True)


def perplexity(checkpoint: Path, kv_cache: Format, place: Path) -> float:
    place.mkdir(parents=True)
    settings = EngineSettings(context=WINDOW, kv_cache=kv_cache)
    engine.build("embedded", checkpoint, settings, place, silent)
    with engine.scorer(place) as scorer:
        tokens = list(windows(scorer))
        scores = scorer.score(tokens)
    logprobs = [value for one in scores for value in one.logprobs.tolist()]
    return exp(-sum(logprobs) / len(logprobs))


def windows(scorer: Scorer) -> Iterator[list[int]]:
    lines = (DEMO / "data" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    tokens = [token for line in lines for token in scorer.tokenize(json.loads(line)["text"])]
    count = len(tokens) // WINDOW
    for place in range(min(WINDOWS, count)):
        at = place * count // min(WINDOWS, count) * WINDOW
        yield tokens[at : at + WINDOW]


if __name__ == "__main__":
    main(sys.argv[1:])
