"""How good the gates are: how often they err at their margin, and how fast and exact they are.

    python tests/bench/gates.py [--trials N] [--aiperf PATH] [--docs] all|TABLE...

``errors`` simulates candidates that do exactly as much harm as the margin allows (a gate errs when
it passes one) and candidates that do none (its power); ``early`` looks at a few of their units
first. ``speed`` asks a few-shot task of MMLU's shape, of the demo model, through our scorer and
through lm-eval's own ``hf`` model, in turns. ``prompts`` stands in prompts.py; ``coverage``,
``controls`` and ``client`` in latency.py. Prints Markdown tables; ``--docs`` writes them between
their markers in docs/gates*.md.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import latency
import prompts

from builders.gate.policy import EARLY
from builders.gate.scoring.corpus import spread
from builders.gate.statistics import graded, power
from builders.gate.statistics.intervals import Bounds, mean_bounds, tango_bounds

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("gates.md", "gates-prompts.md", "gates-latency.md")]
DEMO = ROOT / "demo"
CONFIDENCE, SEED, ROUNDS = 0.95, 20261124, 3
SUBJECTS, SHOTS, QUESTIONS = 4, 5, 95


@dataclass(frozen=True)
class Drawn:
    """The differences of one candidate, and what each belongs to."""

    values: Sequence[float]
    names: Sequence[int] | None = None

    def few(self, count: int) -> "Drawn":
        """Keep so many of them, evenly spread, as a look at the first few does."""
        places = list(spread(len(self.values), count))
        names = self.names and [self.names[place] for place in places]
        return Drawn([self.values[place] for place in places], names)


Draw = Callable[[random.Random, float], Drawn]
BOUNDS: dict[str, Callable[[Drawn, float], Bounds]] = {
    "accuracy": lambda drawn, c: tango_bounds(drawn.values, confidence=c, clusters=drawn.names),
    "perplexity": lambda drawn, c: mean_bounds(
        drawn.values, confidence=c, clusters=drawn.names, series=True
    ),
    "prompts": lambda drawn, c: graded.bounds(drawn.values, confidence=c),
    "latency": lambda drawn, c: mean_bounds(drawn.values, confidence=c),
}


@dataclass(frozen=True)
class Case:
    """One gate in one situation: ``draw`` draws a candidate of so much true harm."""

    gate: str
    units: int
    about: str
    margin: float
    draw: Draw
    exact: float | None = None

    @property
    def limit(self) -> float:
        """The margin, as the gate's bounds count."""
        return self.margin if self.gate in {"accuracy", "prompts"} else math.log1p(self.margin)

    def bounds(self, drawn: Drawn, confidence: float = CONFIDENCE) -> Bounds:
        """Bound what was drawn as the gate does."""
        return BOUNDS[self.gate](drawn, confidence)


def flips(units: int, share: float) -> Draw:
    """Right or wrong items, each flipping by itself."""

    def draw(dice: random.Random, harm: float) -> Drawn:
        changed = max(share, harm)
        lost = (changed + harm) / 2
        values = [
            1 if (chance := dice.random()) < lost else -1 if chance < changed else 0
            for _ in range(units)
        ]
        return Drawn(values)

    return draw


def subjects(groups: int, each: int, share: float, spread: float):
    """Items in subjects, some of which are harmed more than others."""

    def draw(dice: random.Random, harm: float) -> Drawn:
        values, names = [], []
        for group in range(groups):
            own = min(max(harm + dice.gauss(0, spread), -share), share)
            for _ in range(each):
                chance = dice.random()
                values.append(1 if chance < (share + own) / 2 else -1 if chance < share else 0)
                names.append(group)
        return Drawn(values, names)

    return draw


def windows(documents: int, each: int, *, lean: float = 0.0, shared: float = 0.0):
    """Windows' log-ratios: each leans on the last, and a document's share something."""
    spread = 0.0131  # of a window, FP8 on a model of 9M parameters

    def draw(dice: random.Random, harm: float) -> Drawn:
        values, names, last = [], [], 0.0
        for document in range(documents):
            common = dice.gauss(0, spread * shared)
            for _ in range(each):
                last = lean * last + math.sqrt(1 - lean * lean) * dice.gauss(0, spread)
                values.append(math.log1p(harm) + common + last)
                names.append(document)
        return Drawn(values, names)

    return draw


def shares(units: int, samples: int, changed: float):
    """Prompts asked several times: of some the share of right answers moves."""

    def draw(dice: random.Random, harm: float) -> Drawn:
        moved = harm * samples / ((samples + 1) / 2)
        every = max(changed, moved)
        worse = (every + moved) / 2
        values = []
        for _ in range(units):
            chance, size = dice.random(), dice.randint(1, samples) / samples
            values.append(size if chance < worse else -size if chance < every else 0.0)
        return Drawn(values)

    return draw


def pairs(count: int, spread: float):
    """Pairs of load runs, by their log-ratios."""

    def draw(dice: random.Random, harm: float) -> Drawn:
        values = [math.log1p(harm) + dice.gauss(0, spread) for _ in range(count)]
        return Drawn(values)

    return draw


def cases() -> Iterator[Case]:
    """Every situation of the tables."""
    for units, share, margin in (
        (50, 0.10, 0.05), (200, 0.06, 0.02), (400, 0.05, 0.05), (1000, 0.05, 0.01),
        (3200, 0.05, 0.01), (14042, 0.05, 0.01),
    ):  # fmt: skip
        yield Case(
            "accuracy", units, f"{share:.0%} of the items flip", margin, flips(units, share),
            power.binary(units, share, margin, CONFIDENCE),
        )  # fmt: skip
    yield Case("accuracy", 2850, "57 subjects, harmed unlike", 0.02, subjects(57, 50, 0.08, 0.02))
    for about, documents, each, options in (
        ("independent", 60, 1, {}),
        ("independent, 20 documents", 20, 14, {}),
        ("neighbours alike (0.3)", 60, 1, {"lean": 0.3}),
        ("neighbours alike (0.3)", 280, 1, {"lean": 0.3}),
        ("40 documents of 7, each alike", 40, 7, {"shared": 0.7}),
    ):
        draw = windows(documents, each, **options)
        yield Case("perplexity", documents * each, about, 0.01, draw)
    yield Case("prompts", 200, "one answer each, 6 % flip", 0.02, flips(200, 0.06))
    yield Case("prompts", 400, "four answers each, 20 % move", 0.05, shares(400, 4, 0.20))
    yield Case("latency", 8, "pairs scatter by 4 %", 0.05, pairs(8, 0.04))
    yield Case("latency", 16, "pairs scatter by 4 %", 0.05, pairs(16, 0.04))


def passes(case: Case, harm: float, trials: int) -> float:
    """Return how often a candidate of this true harm passes."""
    dice = random.Random(f"{SEED} {case.gate} {case.units} {case.about} {harm}")
    found = (case.bounds(case.draw(dice, harm)).high < case.limit for _ in range(trials))
    return sum(found) / trials


def looked_at() -> Iterator[tuple[Case, int]]:
    """Every situation of the early table, with how many units are looked at first."""
    yield Case("accuracy", 1000, "5% of the items flip", 0.01, flips(1000, 0.05)), 200
    yield Case("accuracy", 1000, "10% of the items flip", 0.02, flips(1000, 0.10)), 200
    yield Case("perplexity", 280, "independent", 0.01, windows(280, 1)), 16
    yield Case("perplexity", 280, "neighbours alike (0.3)", 0.01, windows(280, 1, lean=0.3)), 16
    draw = windows(40, 7, shared=0.7)
    yield Case("perplexity", 280, "40 documents of 7, each alike", 0.01, draw), 16
    yield Case("prompts", 400, "one answer each, 6 % flip", 0.02, flips(400, 0.06)), 50
    yield Case("prompts", 400, "four answers each, 20 % move", 0.05, shares(400, 4, 0.20)), 50


def early(trials: int) -> str:
    """Return the table of what an early look stops, and of what it costs."""
    times = (0, 1, 3, 5, 10)
    head = ("gate", "units", "looked at", "situation", "margin", "power lost",
            *(f"stops {n}×" if n else "stops harmless" for n in times))  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"| --- | ---: | ---: | --- |{' ---: |' * (len(head) - 4)}"]
    for case, few in looked_at():
        dice, stopped, lost = (
            random.Random(f"{SEED} early {case.about}"),
            dict.fromkeys(times, 0),
            0,
        )
        for multiple in times:
            for _ in range(trials):
                drawn = case.draw(dice, multiple * case.margin)
                stops = case.bounds(drawn.few(few), EARLY).low > case.limit
                stopped[multiple] += stops
                lost += stops and not multiple and case.bounds(drawn).high < case.limit
        shown = [f"{lost / trials:.2%}", *(f"{count / trials:.2%}" for count in stopped.values())]
        lines.append(
            f"| {case.gate} | {case.units:,} | {few} | {case.about} | {case.margin:.1%} |"
            f" {' | '.join(shown)} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    trailer = (
        f"{trials:,} trials each, seed {SEED}; looks at {EARLY:.1%} confidence, one-sided. Stops"
        " N×: of candidates whose harm is N times the margin. Power lost: harmless candidates that"
        " would have passed and were stopped."
    )
    return "\n".join([*lines, "", trailer])


def errors(trials: int) -> str:
    """Return the table of errors at the margin and of power at no harm."""
    lines = [
        (
            f"{trials:,} trials each, seed {SEED}; nominal 5 %, a simulated share of 5 % is"
            f" uncertain by ±{196 * math.sqrt(0.0475 / trials):.1f} points."
        ),
        "",
        "| gate | units | situation | margin | passes at the margin | passes at no harm | exact |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for case in cases():
        wrong, right = (passes(case, harm, trials) for harm in (case.margin, 0.0))
        exact = f"{case.exact:.1%}" if case.exact is not None else "—"
        lines.append(
            f"| {case.gate} | {case.units:,} | {case.about} | {case.margin:.1%} | {wrong:.1%} |"
            f" {right:.1%} | {exact} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def few_shot(folder: Path) -> None:
    """Write a task of MMLU's shape from the demo's items: subjects, five shots, four letters."""
    lines = (DEMO / "data" / "choices.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    for subject in range(SUBJECTS):
        own = items[subject * len(items) // SUBJECTS :][: SHOTS + QUESTIONS]
        rows = [
            {"question": i["context"][-220:], "choices": [c[:60] for c in i["choices"]],
             "answer": i["answer"]} for i in own
        ]  # fmt: skip
        for name, part in (("dev", rows[:SHOTS]), ("test", rows[SHOTS:])):
            text = "".join(f"{json.dumps(row)}\n" for row in part)
            (folder / f"{name}{subject}.jsonl").write_text(text)
        (folder / f"shaped_{subject}.yaml").write_text(
            f"task: shaped_{subject}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
            f"    test: {folder}/test{subject}.jsonl\n    dev: {folder}/dev{subject}.jsonl\n"
            "test_split: test\nfewshot_split: dev\nfewshot_config: {sampler: first_n}\n"
            "output_type: multiple_choice\n"
            'doc_to_text: "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\n'
            'C. {{choices[2]}}\\nD. {{choices[3]}}\\nAnswer:"\n'
            'doc_to_choice: ["A", "B", "C", "D"]\ndoc_to_target: answer\n'
            "metric_list: [{metric: acc}]\n"
        )
    names = "".join(f"  - shaped_{subject}\n" for subject in range(SUBJECTS))
    (folder / "shaped.yaml").write_text(f"group: shaped\ntask:\n{names}")


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Return wall and processor seconds, and what the work returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - wall, time.process_time() - cpu, made


def speed(_trials: int) -> str:
    """Return the table of our scorer's time against lm-eval's own model, in turns."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    import torch

    from builders.engine import EngineSettings, build
    from builders.engine.embedded.model import Embedded
    from builders.formats import Format
    from builders.gate.scoring import accuracy, harness
    from builders.parse import Table
    from builders.progress import silent

    torch.set_num_threads(2)
    lines = [
        (
            f"{SUBJECTS} subjects of {QUESTIONS} questions, {SHOTS} shots; median of {ROUNDS}"
            " rounds in turns, 2 threads; lm-eval's `hf` at batch size 8."
        ),
        "",
        (
            "| weights | ours, wall | ours, CPU | `hf`, wall | `hf`, CPU | faster, wall |"
            " faster, CPU | same answers | largest difference |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        few_shot(folder)
        table = Table({"task": "shaped.yaml", "shots": SHOTS}, place="bench")
        settings = accuracy.parse(table, beside=folder, confidence=CONFIDENCE)
        for dtype in (Format.FP32, Format.BF16):
            engine = folder / dtype.value
            engine.mkdir()
            chosen = EngineSettings(context=2048, concurrency=1, dtype=dtype)
            build("embedded", DEMO / "model", chosen, engine, silent)
            with Embedded.load(engine, device="cpu") as model:
                rounds = [
                    (timed(lambda model=model: harness.ask(model, settings, silent)),
                     timed(lambda dtype=dtype: theirs(folder, dtype)))
                    for _ in range(ROUNDS)
                ]  # fmt: skip
            lines.append(compared(dtype.value, rounds))
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def theirs(folder: Path, dtype: object) -> dict[str, dict]:
    """Ask lm-eval's own model, loading not counted twice: it is kept between rounds."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if dtype not in MODELS:
        from lm_eval.models.huggingface import HFLM

        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype.value]
        MODELS[dtype] = HFLM(pretrained=str(DEMO / "model"), dtype=kind, batch_size=8, device="cpu")
    found = simple_evaluate(
        MODELS[dtype], tasks=["shaped"], num_fewshot=SHOTS, bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )  # fmt: skip
    return {
        f"{name}/{one['doc_id']}": one for name, all_ in found["samples"].items() for one in all_
    }


MODELS: dict[object, object] = {}


def compared(name: str, rounds: list) -> str:
    """Return a line of the table."""
    ours, hf = zip(*rounds, strict=True)
    wall, cpu, hf_wall, hf_cpu = (
        median(one[at] for one in side) for side in (ours, hf) for at in (0, 1)
    )
    mine, other = ours[-1][2], hf[-1][2]
    same = sum(other[one["unit"]]["acc"] == one["right"] for one in mine)
    apart = max(
        abs(float(value) - own)
        for one in mine
        for (value, _), own in zip(
            other[one["unit"]]["filtered_resps"], one["loglikelihoods"], strict=True
        )
    )
    return (
        f"| {name} | {wall:.1f} s | {cpu:.1f} s | {hf_wall:.1f} s | {hf_cpu:.1f} s |"
        f" {hf_wall / wall:.1f}× | {hf_cpu / cpu:.1f}× | {same} of {len(mine)} | {apart:.2g} |"
    )


def document(name: str, text: str) -> None:
    """Put a table between its markers, on the page that has them."""
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- end:{name} -->)", re.DOTALL)
    (page,) = (one for one in PAGES if pattern.search(one.read_text(encoding="utf-8")))
    whole = page.read_text(encoding="utf-8")
    made = pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", whole)
    page.write_text(made, encoding="utf-8")


def main() -> None:
    """Make the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=0, help="instead of each table's own number")
    parser.add_argument("--aiperf", default=shutil.which("aiperf"))
    parser.add_argument("--docs", action="store_true")
    makers: dict[str, tuple[Callable[[int], str], int]] = {
        "errors": (errors, 4000),
        "early": (early, 4000),
        "prompts": (prompts.table, 2000),
        "coverage": (latency.coverage, 2000),
        "controls": (latency.controls, 1000),
        "speed": (speed, 0),
        "client": (lambda _: latency.exactness(asked.aiperf), 0),
    }
    parser.add_argument("tables", nargs="+", choices=[*makers, "all"])
    asked = parser.parse_args()
    for name in makers if "all" in asked.tables else asked.tables:
        make, usual = makers[name]
        text = make(asked.trials or usual)
        print(f"{text}\n", flush=True)
        if asked.docs:
            document(name, text)


if __name__ == "__main__":
    main()
