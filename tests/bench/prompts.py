"""How often the prompts gate errs at its margin: the score interval, the bootstrap, the length.

    python tests/bench/prompts.py [--trials N] [--docs]

Simulates candidates that do exactly as much harm as the margin allows and counts how many pass,
and harmless ones. Prints a Markdown table; ``--docs`` writes it into docs/gates-prompts.md.
"""

import argparse
import random
import re
from pathlib import Path

from builders.gate.answering.habits import Trial
from builders.gate.statistics import bootstrap, graded

DOCS = Path(__file__).parents[2] / "docs" / "gates-prompts.md"
CONFIDENCE = 0.95
HEAD = ("graded scores", "prompts", "margin", "score: at the margin", "score: no harm",
        "BCa: at the margin", "BCa: no harm")  # fmt: skip


def shifted(dice: random.Random, harm: float) -> float:
    """Every answer is a little better or worse, and worse on the whole."""
    return max(min(dice.gauss(harm, 0.2), 1.0), -1.0)


def skewed(dice: random.Random, harm: float) -> float:
    """A few answers lose most of their score amid small changes."""
    lost = dice.uniform(0.4, 0.8) if dice.random() < harm / 0.6 else 0.0
    return lost + dice.gauss(0, 0.03)


def rare(dice: random.Random, harm: float) -> float:
    """A few answers are lost outright amid small changes."""
    return 1.0 if dice.random() < harm else dice.gauss(0, 0.05)


def halved(dice: random.Random, harm: float) -> float:
    """Half of the answers do not change at all."""
    return max(min(dice.gauss(2 * harm, 0.3), 1.0), -1.0) if dice.random() < 0.5 else 0.0


WORLDS = {"shifted": shifted, "skewed": skewed, "rare": rare, "halved": halved}


def scores(trials: int) -> list[str]:
    """Count how often each interval passes graded scores at the margin, and without any harm."""
    lines = []
    for name, world in WORLDS.items():
        for units, margin in ((50, 0.1), (100, 0.05), (200, 0.05)):
            dice = random.Random(f"{name} {units}")
            passed = {"score": [0, 0], "bca": [0, 0]}
            for _ in range(trials):
                for place, harm in enumerate((margin, 0.0)):
                    values = [world(dice, harm) for _ in range(units)]
                    found = graded.bounds(values, confidence=CONFIDENCE)
                    passed["score"][place] += found.high < margin
                    if bootstrap.fits(values):
                        found = bootstrap.bounds(values, confidence=CONFIDENCE, resamples=999)
                    passed["bca"][place] += found.high < margin
            shares = [f"{count / trials:.1%}" for pair in passed.values() for count in pair]
            lines.append(f"| {name} | {units} | {margin:g} | {' | '.join(shares)} |")
    return lines


def lengths(trials: int) -> list[str]:
    """Count how often lengths at the margin pass, and equal ones."""
    lines = []
    for units, margin in ((60, 0.1), (200, 0.1)):
        dice, passed = random.Random(f"length {units}"), [0, 0]
        for _ in range(trials):
            for place, ratio in enumerate((1 + margin, 1.0)):
                pairs = []
                for number in range(units):
                    base = dice.lognormvariate(4, 0.6)
                    sides = (base * x * dice.lognormvariate(-0.02, 0.2) for x in (1, ratio))
                    pairs.append(
                        tuple(
                            {"unit": number, "answers": [{"text": "", "tokens": round(tokens)}]}
                            for tokens in sides
                        )
                    )
                trial = Trial(pairs=pairs, confidence=CONFIDENCE, clusters=None)
                passed[place] += trial.verdict("length", margin, gate="x").high < margin
        at, none = (f"{count / trials:.1%}" for count in passed)
        lines.append(f"| {units} | {margin:.0%} | {at} | {none} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--docs", action="store_true")
    asked = parser.parse_args()
    text = "\n".join(
        [
            f"| {' | '.join(HEAD)} |",
            f"| --- |{' ---: |' * (len(HEAD) - 1)}",
            *scores(asked.trials),
            "",
            "| length, prompts | margin | at the margin | no change |",
            "| ---: | ---: | ---: | ---: |",
            *lengths(asked.trials),
            "",
            f"Shares that pass of {asked.trials:,} trials each; nominal 5 % at the margin.",
        ]
    )
    print(text)
    if asked.docs:
        begin, end = "<!-- bench:prompts -->", "<!-- end:prompts -->"
        whole = DOCS.read_text(encoding="utf-8")
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        DOCS.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", whole), encoding="utf-8")


if __name__ == "__main__":
    main()
