"""Text to tokens and back, all at once or as an answer grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from builders.errors import ToolError

_INCOMPLETE = "\ufffd"  # what an unfinished UTF-8 sequence decodes to


class Tokenizer:
    """The checkpoint's own tokenizer, read from its directory."""

    def __init__(self, path: Path) -> None:
        """Load it; a tokenizer that cannot be read is a `ToolError`."""
        try:
            self._inner: Any = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
            raise ToolError(
                f"{path}: the tokenizer cannot be loaded ({error})",
                hint="copy the tokenizer files of the original model beside the weights",
            ) from error
        self.bos: int | None = self._inner.bos_token_id
        self.eos: int | None = self._inner.eos_token_id
        self.special = frozenset(self._inner.all_special_ids)

    def encode(self, text: str) -> list[int]:
        """Cut a text into tokens, with the special tokens that the tokenizer itself adds."""
        return list(self._inner(text, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens have none."""
        text: str = self._inner.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class GrowingText:
    """The text of an answer whose tokens come one by one; its pieces add up to the whole's text.

    A token's text can depend on its neighbours, so each step decodes a short tail twice, with
    and without the new token; what ends in the middle of a character waits for the next token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._tail = 0  # where the tail that gives context begins
        self._read = 0  # tokens whose text was returned
        self._length = 0  # characters returned

    def add(self, token: int) -> str:
        """Take a token, return the text that is certain now."""
        if token in self._tokenizer.special:
            return ""
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._tail : self._read])
        now = self._tokenizer.decode(self._tokens[self._tail :])
        if now.endswith(_INCOMPLETE) or len(now) <= len(before):
            return ""
        self._tail, self._read = self._read, len(self._tokens)
        return self._return(now[len(before) :])

    def rest(self) -> str:
        """Return what is still missing from the text of all tokens."""
        if self._read == len(self._tokens):
            return ""
        return self._return(self._tokenizer.decode(self._tokens)[self._length :])

    def _return(self, text: str) -> str:
        self._length += len(text)
        return text


class StopStrings:
    """Ends a text before the first stop string, and holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._found = False

    def found(self) -> bool:
        """Tell whether a stop string has come."""
        return self._found

    def pass_on(self, text: str) -> str:
        """Take a piece of text, return what surely comes before any stop string."""
        text = self._held + text
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self._found, self._held = True, ""
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Return what was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many last characters of a text begin a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
