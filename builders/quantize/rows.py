"""Turn calibration texts into rows of tokens, as the model's own tokenizer does."""

from typing import Any

from transformers import AutoTokenizer

from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.quantize import chat
from builders.quantize.calibration import Corpus, Document
from builders.quantize.loading import FAILURES, first_line


def tokenize(checkpoint: Checkpoint, corpus: Corpus, *, vocabulary: int) -> list[list[int]]:
    """Tokenize what was chosen; a text longer than the length or the model's context is cut."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ImportError, *FAILURES) as error:
        raise UsageError(
            f"{checkpoint.path}: the tokenizer cannot be read: {first_line(error)}",
            hint="copy the tokenizer files of the original model beside the weights",
        ) from error
    length = min(corpus.length, checkpoint.context)
    told = [document for document in corpus.chosen if document.messages]
    rendered = dict(zip(map(id, told), chat.render(checkpoint, told), strict=True))
    rows = [
        _tokens(tokenizer, rendered.get(id(document)), document, length)
        for document in corpus.chosen
    ]
    largest = max((max(row) for row in rows if row), default=-1)
    if largest < 0:
        raise UsageError("the calibration texts have no tokens", hint="give longer texts")
    if largest >= vocabulary:
        raise UsageError(
            f"{checkpoint.path}: the tokenizer made token {largest}, but the model has only "
            f"{vocabulary}",
            hint="do the tokenizer and the weights belong together?",
        )
    return rows


def _tokens(tokenizer: Any, rendered: str | None, document: Document, length: int) -> list[int]:  # noqa: ANN401
    """Tokenize a text; a rendered conversation has the special tokens that it wants already."""
    ids: list[int] = tokenizer(
        document.text if rendered is None else rendered,
        truncation=True,
        max_length=length,
        add_special_tokens=rendered is None,
    )["input_ids"]
    return ids
