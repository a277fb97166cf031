"""Ask the items of an lm-eval task through our own scorer, so that lm-eval judges what is served.

Tokens are cut as lm-eval's own ``hf`` model cuts them, so its answers and ours agree. Unlike it,
nothing is ever truncated in silence: an item that does not fit is an error that names it.
"""

import io
import logging
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from contextlib import redirect_stderr as to_stderr
from contextlib import redirect_stdout as to_stdout
from functools import cache, lru_cache
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import env, get_rolling_token_windows, make_disjoint_window

from builders.errors import BuildersError, EvidenceError, UsageError
from builders.gate.evidence import Sample
from builders.gate.scoring import corpus
from builders.gate.scoring.accuracy import Settings
from builders.progress import Progress
from builders.scorer import Scorer, TokenScores

if TYPE_CHECKING:
    from builders.gate import Ends

SHOWN: Final = 240  # characters of a prompt kept for people to read


class ScorerLM(TemplateLM):  # type: ignore[misc]
    """A scorer in the shape that lm-eval asks for."""

    def __init__(self, scorer: Scorer, progress: Progress, *, few: int = 0) -> None:
        super().__init__()
        self._scorer = scorer
        self._progress = progress
        self._few = few
        self.asked: set[tuple[str, int]] = set()
        self._stderr = sys.stderr
        self._lead = scorer.tokenize("")  # what the tokenizer puts before any text
        # lm-eval cuts a context anew for each of its choices.
        self._cut_text = lru_cache(maxsize=8)(lambda text: tuple(scorer.tokenize(text)))

    @property
    def eot_token_id(self) -> int:
        """Return the token that stands before a text without context."""
        return self._scorer.prefix

    def tok_encode(
        self, string: str, *, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Cut a string; its first token is not doubled where the string already writes it out."""
        tokens = list(self._cut_text(string))
        lead = self._lead
        doubled = add_special_tokens is None and tokens[: 2 * len(lead)] == lead + lead
        return tokens[len(lead) :] if doubled or add_special_tokens is False else tokens

    def loglikelihood(self, requests: list[Instance], **_: object) -> list[tuple[float, bool]]:
        """Score each continuation after its context; refuse an item that does not fit.

        Of few items the others are passed over, not left out: examples are drawn item by item, and
        would else be other ones.
        """
        items = list(dict.fromkeys((request.task_name, request.doc_id) for request in requests))
        self.asked |= {items[place] for place in corpus.spread(len(items), self._few)}
        asked = [(r.task_name, r.doc_id) in self.asked for r in requests]
        cut = []
        for request in compress(requests, asked):
            given, wanted = self._cut(*request.args)
            self._fits(request, given, wanted)
            cut.append((request.args, given, wanted))
        found = iter(self._loglikelihood_tokens(cut))
        return [next(found) if own else (0.0, False) for own in asked]

    def loglikelihood_rolling(self, requests: list[Instance], **_: object) -> list[float]:
        """Score whole texts, in windows of the model's context."""
        cut, owners = [], []
        for place, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._scorer.context - 1,  # one more is the row's first token
                context_len=1,
            )
            for window in windows:
                cut.append((None, *make_disjoint_window(window)))
                owners.append(place)
        parts: list[list[float]] = [[] for _ in requests]
        for owner, (value, _greedy) in zip(owners, self._loglikelihood_tokens(cut), strict=True):
            parts[owner].append(value)
        return [math.fsum(part) for part in parts]

    def generate_until(self, requests: list[Instance], **_: object) -> list[str]:
        """Refuse: a scorer scores, it does not write."""
        raise EvidenceError(
            f"accuracy: task {requests[0].task_name} wants text generated",
            hint="choose a multiple-choice task here, and the prompts gate for generated answers",
        )

    def _loglikelihood_tokens(self, requests: list[Any], **_: object) -> list[tuple[float, bool]]:
        rows: dict[tuple[int, ...], int] = defaultdict(int)
        for _args, given, wanted in requests:
            rows[*given, *wanted] = max(rows[*given, *wanted], len(wanted))
        with to_stderr(self._stderr):  # the progress of scoring is ours: let it be seen
            found = self._score(list(rows), list(rows.values()))
        scores = dict(zip(rows, found, strict=True))
        return [_sum(scores[*given, *wanted], len(wanted)) for _args, given, wanted in requests]

    def _score(self, rows: Sequence[Sequence[int]], wanted: Sequence[int]) -> Sequence[TokenScores]:
        if hasattr(self._scorer, "score_ends"):
            ends = cast("Ends", self._scorer)
            return ends.score_ends(rows, wanted, progress=self._progress)
        return self._scorer.score(rows, progress=self._progress)

    def _cut(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context:
            return self._encode_pair(context, continuation)  # type: ignore[no-any-return]
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _fits(self, request: Instance, given: list[int], wanted: list[int]) -> None:
        item = f"accuracy: item {request.doc_id} of task {request.task_name}"
        if len(given) + len(wanted) > self._scorer.context:
            raise EvidenceError(
                f"{item} has {len(given) + len(wanted)} tokens,"
                f" more than the model's context of {self._scorer.context}",
                hint="ask with fewer shots or leave the item out: nothing is truncated",
            )
        if not given or not wanted:
            raise EvidenceError(
                f"{item} has a choice without tokens of its own",
                hint="it is empty, or melts into the context's last token: begin it with a space",
            )


def ask(scorer: Scorer, settings: Settings, progress: Progress) -> list[Sample]:
    """Return one sample for each item, in the order of the task."""
    with tempfile.TemporaryDirectory(prefix="enginesmith-") as folder:
        model = ScorerLM(scorer, progress, few=settings.few)
        with _quiet(), _compiled_once():
            own = _own(settings, folder) if settings.path else nullcontext()
            loaded = _load(settings, own)
            answers = _evaluate(model, loaded, settings)
        return [
            _sample(name, answer, loaded["tasks"][name], settings)
            for name, found in answers.items()
            for answer in _first_filter(found)
            if not settings.few or (name, answer["doc_id"]) in model.asked
        ]


def _load(settings: Settings, own: AbstractContextManager[None]) -> dict[str, Any]:
    what = settings.path or settings.task
    try:
        with own:
            manager = TaskManager(
                include_path="." if settings.path else None,
                include_defaults=settings.path is None,
            )
            loaded: dict[str, Any] = manager.load([_name(manager, settings)])
    except KeyError as error:
        hint = "a name that lm-eval knows, or a path that ends in .yaml"
        raise UsageError(f"accuracy: no task {what}: {_short(error)}", hint=hint) from error
    except Exception as error:  # a task is a program of its author's
        hint = "it must load in lm-eval; a named task needs its data set in the local cache"
        raise UsageError(f"accuracy: task {what}: {_short(error)}", hint=hint) from error
    for task in loaded["tasks"].values():
        own_shots = task.get_config("num_fewshot")
        # As in lm-eval's own command: a task that insists on no examples gets none.
        asked = settings.shots >= 0 and own_shots != 0
        task.set_config(key="num_fewshot", value=settings.shots if asked else own_shots or 0)
        task.set_fewshot_seed(seed=settings.seed)
    return loaded


def _name(manager: TaskManager, settings: Settings) -> str:
    """Return what lm-eval calls the task: by the path of its file it finds no groups."""
    if settings.path is None:
        return settings.task
    index = manager.task_index.items()
    found = (
        name
        for name, entry in index
        if entry.yaml_path and Path(entry.yaml_path).name == settings.path.name
    )
    return next(found, settings.path.name)


def _evaluate(
    model: ScorerLM, loaded: Mapping[str, Any], settings: Settings
) -> dict[str, list[dict[str, Any]]]:
    try:
        results = evaluate(
            lm=model,
            task_dict=loaded,
            limit=settings.limit or None,
            bootstrap_iters=0,
            log_samples=True,
        )
    except BuildersError:
        raise
    except Exception as error:  # a task is a program of its author's
        raise EvidenceError(
            f"accuracy: task {settings.path or settings.task}: {_short(error)}",
            hint="try the task with lm-eval's own command line",
        ) from error
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return samples


def _first_filter(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep one answer an item where a task filters its answers in several ways."""
    return [answer for answer in answers if answer["filter"] == answers[0]["filter"]]


def _sample(name: str, answer: dict[str, Any], task: Task, settings: Settings) -> Sample:
    item = f"item {answer['doc_id']} of task {name}"
    right = answer.get(settings.metric)
    if not (right == 0 or right == 1):  # noqa: PLR1714 - what a metric gives may have no hash
        known = ", ".join(answer["metrics"])
        raise UsageError(
            f"accuracy: {item} is not right or wrong by {settings.metric}: {right}",
            hint=f"metric = one of {known} that is 0 or 1 for each item",
        )
    choices = len(task.doc_to_choice(answer["doc"])) if task.OUTPUT_TYPE == "multiple_choice" else 1
    target = answer["target"]
    if choices > 1 and isinstance(target, int) and not 0 <= target < choices:
        raise UsageError(
            f"accuracy: {item}: the right choice is number {target} of {choices}",
            hint="mend doc_to_target: lm-eval would count the item as wrong for every model",
        )
    values = [float(value) for value, _ in answer["filtered_resps"]]
    return {
        "unit": f"{name}/{answer['doc_id']}",
        "task": name,
        "cluster": _cluster(name, answer["doc"], settings, item),
        "choices": choices,
        "choice": max(range(len(values)), key=values.__getitem__),
        "right": int(right),
        "loglikelihoods": values,
        "greedy": "".join("01"[bool(greedy)] for _, greedy in answer["filtered_resps"]),
        "prompt": str(answer["arguments"][0][0])[-SHOWN:],
        **{key: answer[key] for key in ("doc_hash", "prompt_hash", "target_hash")},
    }


def _cluster(name: str, doc: Mapping[str, Any], settings: Settings, item: str) -> str:
    if settings.cluster in {"", "task"}:
        return name
    if settings.cluster not in doc:
        raise UsageError(
            f"accuracy: {item} has no field {settings.cluster}",
            hint=f"cluster = one of {', '.join(doc)}, or task",
        )
    return str(doc[settings.cluster])


def _sum(score: TokenScores, wanted: int) -> tuple[float, bool]:
    values = score.logprobs.tolist()[-wanted:]
    if not all(map(math.isfinite, values)):
        raise EvidenceError(
            "accuracy: a score is not a finite number",
            hint="the model computes NaN or infinity: look at its scales",
        )
    return math.fsum(values), all(score.greedy.tolist()[-wanted:])


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _own(settings: Settings, cache: str) -> Iterator[None]:
    """Read a task of one's own: its paths are relative to its folder, its cache is ours to drop."""
    assert settings.path
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = cache
    try:
        with chdir(settings.path.parent):
            yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


@contextmanager
def _compiled_once() -> Iterator[None]:
    """Compile each of a task's templates once: lm-eval compiles them for every item and example."""
    env.from_string = cache(env.from_string)
    try:
        yield
    finally:
        del env.from_string  # the method of its class is there again


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's prints, bars and log lines from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with to_stdout(io.StringIO()), to_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
