"""Score tokens on a running server that speaks OpenAI's API: vLLM, and what tells as much.

Which form of request the server understands is tried when it is opened, with a row whose answer
must add up. Nothing is believed later either: an answer that is not about exactly the tokens that
were sent is an `EvidenceError`, a server that fails or dies a `ToolError`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from builders.errors import BuildersError, EvidenceError, UsageError
from builders.parse import nearest
from builders.progress import Progress, silent
from builders.scorer import PlainChoices, PlainScores, check_rows
from builders.serve import told
from builders.serve.completions import Completions
from builders.serve.told import Echo, Place, PromptLogprobs, Way
from builders.texts import Texts

CONCURRENCY: Final = 8  # requests at once
_TRIED: Final = "The quick brown fox jumps over the lazy dog."
_TOP: Final = 16  # likely tokens asked for in the trial: what the perplexity gate keeps

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model on a server: under which name, in which form it is asked, how long a row may be.

    ``limit`` is the server's own, in tokens of prompt and answer; None where it does not say.
    """

    server: Completions
    model: str
    limit: int | None
    way: Way

    def ask(self, row: Sequence[int], top: int, number: int) -> list[Place]:
        """Return what the server says of each token from the second on."""
        who = f"{self.model} at {self.server.url}, row {number}"
        body = {"model": self.model, **self.way.asks(row, top)}
        choice = told.answer(who, self.model, row, self.server.post("/completions", body))
        return self.way.reads(who, row, choice)


class EndpointScorer:
    """A served model as a scorer; each row is a request, a bounded number of them at once."""

    def __init__(self, served: Served, texts: Texts, *, concurrency: int = CONCURRENCY) -> None:
        self._served, self._texts = served, texts
        self._concurrency = concurrency
        # A server keeps room for a token of its own, also where it is asked for none.
        limits = (texts.context, served.limit and served.limit - 1)
        self.context = min((limit for limit in limits if limit), default=0)
        self.vocabulary, self.prefix = texts.vocabulary, texts.prefix
        if not self.context:
            raise UsageError(
                f"{served.server.url}: neither the server nor config.json says how long a row is",
                hint="give a tokenizer folder whose config.json has max_position_embeddings",
            )
        if _distributes(served, texts):
            self.distributions = self._distributions

    def tokenize(self, text: str) -> list[int]:
        """Cut a text into tokens, with the special tokens that the tokenizer itself adds."""
        return self._texts.encode(text)

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> list[PlainScores]:
        """Score each row; its first token is given, so a row of n tokens has n - 1 scores."""

        def one(number: int, row: Sequence[int]) -> PlainScores:
            return told.scores(self._served.ask(row, 1, number) if len(row) > 1 else ())

        return self._each(one, rows, "score", progress)

    def _distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> list[PlainChoices]:
        """Return the ``top`` likeliest tokens at each place of each row from the second on."""

        def one(number: int, row: Sequence[int]) -> PlainChoices:
            places = self._served.ask(row, top, number) if len(row) > 1 else ()
            return told.choices(f"{self._served.model}, row {number}", places, top)

        return self._each(one, rows, "distributions", progress)

    def _each(
        self,
        work: Callable[[int, Sequence[int]], Found],
        rows: Sequence[Sequence[int]],
        what: str,
        progress: Progress,
    ) -> list[Found]:
        """Do the work for each row, side by side; the first failure ends all."""
        check_rows(rows, context=self.context, vocabulary=self.vocabulary)
        total, done = sum(map(len, rows)), 0
        found: dict[int, Found] = {}
        progress(what, 0, total, unit="tokens")
        failed = threading.Event()

        def guarded(number: int, row: Sequence[int]) -> Found | None:
            if failed.is_set():
                return None
            try:
                return work(number, row)
            except BaseException:
                failed.set()
                raise

        with self._workers() as workers:
            jobs = {workers.submit(guarded, *one): one for one in enumerate(rows)}
            for job in as_completed(jobs):
                number, row = jobs[job]
                if (one := job.result()) is not None:
                    found[number] = one
                done += len(row)
                progress(what, done, total, unit="tokens")
        return [found[number] for number in range(len(rows))]

    @contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="score")
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()  # whoever waits for an answer gets none
            raise
        finally:
            pool.shutdown()

    def close(self) -> None:
        """End all connections."""
        self._served.server.close()


def open_scorer(
    server: Completions, tokenizer: Path, *, model: str = "", concurrency: int = CONCURRENCY
) -> EndpointScorer:
    """Open a running server for scoring; without a ``model`` it must serve only one.

    ``tokenizer`` is a folder with the model's tokenizer and config.json. A server that does not
    tell log-probabilities of a prompt in any known form is an `EvidenceError` that says why.
    """
    texts = Texts.read(tokenizer)
    name, limit = served_name(server, model)
    row = list(texts.encode(_TRIED))[:64]
    if len(row) < 2:
        raise UsageError(f"{tokenizer}: the tokenizer finds no tokens in a sentence")
    failures = []
    for way in (PromptLogprobs(), Echo(texts.decode, 0), Echo(texts.decode, 1)):
        served = Served(server=server, model=name, limit=limit, way=way)
        try:
            served.ask(row, 1, 0)
        except BuildersError as error:
            failures.append(f"  {_form(way)}: {error}")
        else:
            return EndpointScorer(served, texts, concurrency=concurrency)
    story = server.obituary()
    raise EvidenceError(
        f"{server.url} tells no log-probabilities of given tokens:\n" + "\n".join(failures) + story,
        hint="serve the model with vLLM, or judge it in the embedded runtime",
    )


@contextmanager
def scorer(
    server: Completions, tokenizer: Path, *, model: str = "", concurrency: int = CONCURRENCY
) -> Iterator[EndpointScorer]:
    """Open a running server for scoring while the block runs."""
    try:
        yield open_scorer(server, tokenizer, model=model, concurrency=concurrency)
    finally:
        server.close()


def served_name(server: Completions, asked: str) -> tuple[str, int | None]:
    """Return the name under which the model is served, and the longest row that is taken."""
    data = server.get("/models").get("data")
    listed = data if isinstance(data, list) else []
    known: dict[str, Mapping[str, Any]] = {
        str(one.get("id")): one for one in listed if isinstance(one, Mapping)
    }
    if not asked and len(known) != 1:
        raise UsageError(
            f"{server.url} serves {len(known)} models: {', '.join(known) or 'none'}",
            hint="name one of them",
        )
    name = asked or next(iter(known))
    if name not in known:
        raise UsageError(f"{server.url} serves no model {name!r}", hint=nearest(name, known))
    limit = known[name].get("max_model_len")
    return name, limit if isinstance(limit, int) else None


def _distributes(served: Served, texts: Texts) -> bool:
    """Try whether the server tells what else was likely, with numbered tokens."""
    if not served.way.numbered:
        return False
    row, top = texts.encode(_TRIED)[:8], min(_TOP, texts.vocabulary)
    try:
        told.choices(served.model, served.ask(row, top, 0), top)
    except BuildersError:
        return False
    return True


def _form(way: Way) -> str:
    return f"echo, max_tokens={way.generates}" if isinstance(way, Echo) else "prompt_logprobs"
