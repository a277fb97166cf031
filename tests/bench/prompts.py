"""How often the prompts gate errs at its margin: the score interval, the bootstrap, the length.

Simulates candidates that do exactly as much harm as the margin allows and counts how many pass,
and harmless ones. ``python tests/bench/gates.py prompts`` makes the table.
"""

import math
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor

from builders.gate.answering.habits import Trial
from builders.gate.statistics import bootstrap, graded

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


def row(name: str, units: int, margin: float, trials: int) -> str:
    """Count how often each interval passes graded scores at the margin, and without any harm."""
    world, dice = WORLDS[name], random.Random(f"{name} {units}")
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
    line = f"| {name} | {units} | {margin:g} | {' | '.join(shares)} |"
    print(line, file=sys.stderr, flush=True)
    return line


def scores(trials: int) -> list[str]:
    """Return a line for each world and number of prompts; each has dice of its own."""
    sizes = ((50, 0.1), (100, 0.05), (200, 0.05))
    jobs = [(name, units, margin, trials) for name in WORLDS for units, margin in sizes]
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(row, *zip(*jobs, strict=True)))


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


def table(trials: int) -> str:
    """Return both tables and what they are."""
    return "\n".join(
        [
            f"| {' | '.join(HEAD)} |",
            f"| --- |{' ---: |' * (len(HEAD) - 1)}",
            *scores(trials),
            "",
            "| length, prompts | margin | at the margin | no change |",
            "| ---: | ---: | ---: | ---: |",
            *lengths(trials),
            "",
            (
                f"Shares that pass of {trials:,} trials each; nominal 5 % at the margin, where a"
                f" simulated share is uncertain by ±{196 * math.sqrt(0.0475 / trials):.1f} points."
            ),
        ]
    )
