"""What GPTQ and AWQ have in common here: GPTQModel, driven in an environment of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint
from builders.progress import Progress
from builders.quantize import chat, worker
from builders.quantize.calibration import Corpus
from builders.quantize.shapes import ALWAYS, is_kept, matrices, quantized
from builders.recipe import Recipe

ENVIRONMENT: Final = "gptq"
_GROUP: Final = 128
# What GPTQModel leaves beside the weights; the tokenizer is copied from the source instead.
_LEFT_OVER: Final = (
    "quant_log.csv",
    "quantize_config.json",
    "tokenizer*",
    "special_tokens_map.json",
)


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,
    out: Path,
    progress: Progress,
    method: Mapping[str, object],
) -> None:
    """Let the worker fill ``out``; it calibrates on the first GPU if there is one."""
    layers = quantized(checkpoint, recipe)
    # Heads, embeddings and routers GPTQModel leaves alone by itself.
    others = [name for name in matrices(checkpoint) if name not in layers]
    job = {
        **method,
        "checkpoint": str(checkpoint.path.resolve()),
        "out": str(out.resolve()),
        "bits": recipe.weights.bits,
        "group": recipe.group or _GROUP,
        "kept": [name for name in others if not is_kept(name, ALWAYS)],
        "documents": _documents(checkpoint, corpus) if corpus else [],
        "length": min(corpus.length, checkpoint.context) if corpus else 0,
    }
    worker.run(ENVIRONMENT, worker.script("gptqmodel_worker"), job, progress)
    for glob in _LEFT_OVER:
        for path in out.glob(glob):
            path.unlink()


def _documents(checkpoint: Checkpoint, corpus: Corpus) -> list[Mapping[str, object]]:
    """Return texts; a rendered conversation has the special tokens that it wants already.

    Templates are programs of strangers: they are rendered here, where they have limits.
    """
    told = [document for document in corpus.chosen if document.messages]
    rendered = iter(chat.render(checkpoint, told))
    return [
        {"text": next(rendered), "special": False}
        if document.messages
        else {"text": document.text, "special": True}
        for document in corpus.chosen
    ]
