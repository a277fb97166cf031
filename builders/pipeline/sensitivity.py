"""What each layer costs in each format, as a stage that is kept, with a page to look at."""

import shutil
from pathlib import Path
from typing import Final

from builders import files, pipeline
from builders.bundle import fingerprint
from builders.errors import UsageError
from builders.pipeline.request import Request
from builders.pipeline.stages import Stages, Watcher, content_of, plain
from builders.pipeline.versions import code, versions
from builders.plan import Plan
from builders.quantize import sensitivity
from builders.quantize.backends import libraries
from builders.quantize.sensitivity import Sensitivity
from builders.report import heat
from builders.store import Stage

PAGE: Final = "sensitivity.html"
PICTURE: Final = "sensitivity.svg"


def measure(
    request: Request, watcher: Watcher, names: tuple[str, ...], out: Path | None
) -> tuple[Stage, Sensitivity]:
    """Measure what each layer costs under these recipes, or find it measured."""
    if out:
        files.refuse_occupied(out)
    with pipeline.stages(request, watcher, judging=False) as opened:
        if opened.plan.imported:
            raise UsageError(
                f"{opened.plan.checkpoint.path} came quantized: its layers cost what they cost",
                hint="name the original checkpoint as the model",
            )
        stage = _stage(opened, names)
        if out:
            opened.store.materialise(stage.tree, out)
        return stage, Sensitivity.read(stage.path)


def _stage(opened: Stages, names: tuple[str, ...]) -> Stage:
    plan = opened.plan
    recipes = sensitivity.chosen(names, plan.recipe.keep)
    corpus = sensitivity.corpus_of(plan.calibration)
    inputs = {
        "checkpoint": content_of(plan.checkpoint),
        "recipes": {name: plain(one) for name, one in recipes.items()},
        "calibration": corpus.digest,
        "code": code("quantize", "numerics", "report"),
        "versions": versions("torch", "transformers", *libraries(next(iter(recipes.values())))),
    }
    scratch = opened.store.root / "unfinished" / fingerprint(inputs)

    def work(out: Path) -> None:
        sensitivity.measure(plan.checkpoint, recipes, corpus, out, scratch, opened.watcher.progress)
        _draw(plan, out)
        shutil.rmtree(scratch)

    return opened.run("sensitivity", inputs, work)


def _draw(plan: Plan, out: Path) -> None:
    found = Sensitivity.read(out)
    points = [
        heat.Point(map=cost.recipe, row=cost.layer, column=cost.block, value=cost.divergence)
        for cost in found.costs
    ]
    drawn = heat.heat(
        points,
        title=f"{plan.checkpoint.path.name}: what each layer costs",
        lead="One group of matrices rounded at a time, all others left alone: the mean "
        "Kullback-Leibler divergence of the next token's distribution from the unrounded model's, "
        f"in nats a token, over {found.tokens:,} tokens of calibration text.",
    )
    files.write_atomic(out / PICTURE, heat.as_svg(drawn))
    files.write_atomic(out / PAGE, heat.as_html(drawn))
