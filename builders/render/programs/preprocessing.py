"""Text to tokens in front of a compiled engine; batches, and nothing but text.

A relative ``tokenizer_dir`` is looked for in the model repository.
"""

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
        self._special = parameters.get("add_special_tokens", "true").lower() in _YES
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(place), local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
            raise pb_utils.TritonModelException(f"{place}: no tokenizer: {error}") from error
        end = self._tokenizer.eos_token_id
        self._end = -1 if end is None else end
        pad = self._tokenizer.pad_token_id
        self._pad = self._end if pad is None else pad

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request; one that is malformed gets an error of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:  # noqa: ANN401 - Triton's own class has no stubs
        try:
            columns = self._columns(request)
        except UnicodeDecodeError as error:
            said = pb_utils.TritonError(f"not valid UTF-8 ({error.reason})")
            return pb_utils.InferenceResponse(error=said)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*column) for column in columns.items()])

    def _columns(self, request: Any) -> dict[str, Any]:  # noqa: ANN401
        rows = [self._tokens(row[0].decode()) for row in _array(request, "QUERY")]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), max(self._pad, 0), dtype=np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": np.array([[len(tokens)] for tokens in rows], dtype=np.int32),
            "REQUEST_OUTPUT_LEN": _array(request, "REQUEST_OUTPUT_LEN").astype(np.int32),
            "STOP_WORDS_IDS": self._words(request, "STOP_WORDS_DICT", len(rows)),
            "BAD_WORDS_IDS": self._words(request, "BAD_WORDS_DICT", len(rows)),
            "OUT_END_ID": self._identity(request, "END_ID", self._end, len(rows)),
            "OUT_PAD_ID": self._identity(request, "PAD_ID", self._pad, len(rows)),
        }

    def _tokens(self, text: str) -> list[int]:
        return list(
            self._tokenizer(text, add_special_tokens=self._special, verbose=False)["input_ids"]
        )

    def _identity(self, request: Any, name: str, usual: int, rows: int) -> Any:  # noqa: ANN401
        given = _array(request, name)
        return np.full((rows, 1), usual, dtype=np.int32) if given is None else given

    def _words(self, request: Any, name: str, rows: int) -> Any:  # noqa: ANN401
        """Return TensorRT-LLM's word lists: all words' tokens in one row, their ends in another."""
        given = _array(request, name)
        if given is None:
            return np.zeros((rows, 2, 0), dtype=np.int32)
        lists = [[self._word(raw.decode()) for raw in row.reshape(-1) if raw] for row in given]
        width = max((sum(map(len, words)) for words in lists), default=0)
        table = np.zeros((rows, 2, width), dtype=np.int32)
        table[:, 1] = -1
        for (flat, ends), words in zip(table, lists, strict=True):
            tokens = [token for word in words for token in word]
            flat[: len(tokens)] = tokens
            ends[: len(words)] = np.cumsum([len(word) for word in words], dtype=np.int32)
        return table

    def _word(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _array(request: Any, name: str) -> Any:  # noqa: ANN401
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
