"""Tokens to text behind a compiled engine. A relative ``tokenizer_dir`` lies in the repository."""

import contextlib
import json
import locale
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

with contextlib.suppress(locale.Error):
    # Triton's interpreter keeps the C locale whatever LANG says, and files would be read as ASCII.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")

from transformers import AutoTokenizer

_YES: Final = frozenset({"true", "1", "yes"})


class TritonPythonModel:
    """The class that Triton looks for in ``model.py``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        place = Path(args["model_repository"]).parent / parameters["tokenizer_dir"]
        self._skip = parameters.get("skip_special_tokens", "true").lower() in _YES
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(place), local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
            raise pb_utils.TritonModelException(f"{place}: no tokenizer: {error}") from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return the text of every sequence of every request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:  # noqa: ANN401 - Triton's own class has no stubs
        rows = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        texts = [
            [self._text(tokens[:length]) for tokens, length in zip(beams, ends, strict=True)]
            for beams, ends in zip(rows, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("OUTPUT", np.array(texts, dtype=np.object_))]
        )

    def _text(self, tokens: Any) -> bytes:  # noqa: ANN401
        text: str = self._tokenizer.decode(
            tokens.tolist(), skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
        return text.encode()
