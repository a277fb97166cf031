"""What GPTQ and AWQ have in common here: GPTQModel, driven in an environment of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint
from builders.progress import Progress
from builders.quantize import worker
from builders.quantize.calibration import Corpus, Document
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
        "documents": [_document(one) for one in corpus.chosen] if corpus else [],
        "length": min(corpus.length, checkpoint.context) if corpus else 0,
    }
    worker.run(ENVIRONMENT, worker.script("gptqmodel_worker"), job, progress)
    for glob in _LEFT_OVER:
        for path in out.glob(glob):
            path.unlink()


def _document(document: Document) -> Mapping[str, object]:
    if document.messages:
        messages = [{"role": role, "content": content} for role, content in document.messages]
        return {"place": document.place, "messages": messages}
    return {"place": document.place, "text": document.text}
