"""Render chat templates, which are programs of a checkpoint's author, in a child with limits.

transformers renders them in a sandbox that keeps them from the system, not from taking all memory
or from never ending. So a child renders, and the operating system ends it.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from builders import process
from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.quantize.calibration import Document

_WORKER: Final = "builders.quantize.chat_worker"


def render(checkpoint: Checkpoint, documents: Sequence[Document]) -> list[str]:
    """Return each conversation as one text; what a template refuses is named by its line."""
    if not documents:
        return []
    asked = {
        "tokenizer": str(checkpoint.path.resolve()),
        "conversations": [
            [{"role": role, "content": content} for role, content in document.messages]
            for document in documents
        ],
    }
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        child = process.converse([sys.executable, "-m", _WORKER], say=json.dumps(asked), log=log)
        try:
            with closing(child) as answers:
                for answer, document in zip(answers, documents, strict=False):
                    texts.append(_text(json.loads(answer), document))
        except ToolError as error:
            raise _stopped(documents, texts, error) from error
    if len(texts) < len(documents):
        raise _stopped(documents, texts, None)
    return texts


def _text(answer: dict[str, str], document: Document) -> str:
    if "error" in answer:
        raise UsageError(
            f"{document.place}: the chat template refuses these messages: {answer['error']}",
            hint="templates usually want user and assistant in turn",
        )
    return answer["text"]


def _stopped(
    documents: Sequence[Document], texts: Sequence[str], error: ToolError | None
) -> UsageError:
    """Say at which conversation the child ended, and how."""
    place = documents[min(len(texts), len(documents) - 1)].place
    why = str(error).splitlines()[-1] if error else "it ended"
    if error and "exited -14" in str(error):
        why = "it ran for more than 5 seconds"
    return UsageError(
        f"{place}: the chat template cannot be rendered: {why}",
        hint="give texts instead of messages, or a sound chat_template.jinja",
    )
