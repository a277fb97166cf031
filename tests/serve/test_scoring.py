"""A served model scores as the same model in this process does; no lie of a server gets through."""

import math
import random
import re
import time
from copy import deepcopy

import pytest

from builders.engine import EngineSettings, build
from builders.engine.embedded.model import Embedded
from builders.errors import BuildersError, EvidenceError, ToolError, UsageError
from builders.formats import Format
from builders.gate.controls import Alone, Damaged
from builders.progress import silent
from builders.serve import completions, scoring
from builders.serve.completions import Completions
from fakes.checkpoints import DEMO
from fakes.openai import CUT, serving_aside, whole
from fakes.scoring_server import ScoringServer

TEXT = "Return a list of the names in the current scope. If the argument has a method named"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    build("embedded", DEMO, EngineSettings(context=512, dtype=Format.FP32), out, silent)
    with Embedded.load(out, device="cpu") as loaded:
        yield loaded


@pytest.fixture
def rows(model):
    dice = random.Random(7)
    odd = [[dice.randrange(model.vocabulary) for _ in range(n)] for n in (2, 1, 90, 17)]
    return [model.tokenize(TEXT), *odd]


OPENED = []


@pytest.fixture(autouse=True)
def _closed():
    yield
    while OPENED:
        OPENED.pop().close()


def connected(url, **options):
    OPENED.append(Completions(url=url, timeout=30, **options))
    return OPENED[-1]


def opened(url, **options):
    own = {name: options.pop(name) for name in ("model", "concurrency") if name in options}
    return scoring.open_scorer(connected(url, **options), DEMO, **own)


def near(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logprobs.tolist() == pytest.approx(theirs.logprobs.tolist(), abs=1e-4)
        assert list(map(bool, ours.greedy.tolist())) == theirs.greedy.tolist()


@pytest.mark.parametrize("style", ["vllm", "echo"])
def test_scores_equal_those_of_the_embedded_runtime(model, rows, style):
    with serving_aside(ScoringServer(model, style=style)) as server:
        found = opened(server.url).score(rows)
    near(found, model.score(rows))
    assert [len(one.logprobs) for one in found] == [len(row) - 1 for row in rows]


def test_texts_are_cut_as_the_embedded_runtime_cuts_them(model):
    with serving_aside(ScoringServer(model)) as server:
        scorer = opened(server.url)
    assert scorer.tokenize(TEXT) == model.tokenize(TEXT)
    assert scorer.tokenize("") == model.tokenize("")
    assert (scorer.prefix, scorer.vocabulary) == (model.prefix, model.vocabulary)


def test_likely_tokens_equal_those_of_the_embedded_runtime(model, rows):
    with serving_aside(ScoringServer(model)) as server:
        found = opened(server.url).distributions(rows, 5)
    for ours, theirs in zip(found, model.distributions(rows, 5), strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        flat = [value for place in ours.logprobs.tolist() for value in place]
        assert flat == pytest.approx(theirs.logprobs.ravel().tolist(), abs=1e-4)


def test_a_server_that_does_not_number_its_tokens_has_no_distributions(model):
    with serving_aside(ScoringServer(model, style="echo")) as server:
        assert not hasattr(opened(server.url), "distributions")


def test_controls_wrap_a_served_model(model, rows):
    with serving_aside(ScoringServer(model)) as server:
        scorer = opened(server.url)
        near(Alone(scorer).score(rows), scorer.score(rows))
        (harmed,), (sound,) = Damaged(scorer).score(rows[:1]), scorer.score(rows[:1])
    assert sum(harmed.logprobs) < sum(sound.logprobs)


def test_a_row_leaves_room_for_the_token_that_the_server_writes(model):
    with serving_aside(ScoringServer(model, limit=40)) as server:
        scorer = opened(server.url)
        assert scorer.context == 39
        assert len(scorer.score([[5] * 39])[0].logprobs) == 38
        with pytest.raises(EvidenceError, match="row 0 has 40 tokens, the model's context is 39"):
            scorer.score([[5] * 40])


def test_progress_counts_tokens_to_the_end(model, rows):
    said = []
    with serving_aside(ScoringServer(model)) as server:
        opened(server.url).score(rows, progress=lambda *told, unit: said.append((*told, unit)))
    total = sum(map(len, rows))
    assert said[0] == ("score", 0, total, "tokens")
    assert said[-1] == ("score", total, total, "tokens")
    assert len(said) == len(rows) + 1


# What a server may do to an honest answer, when it is asked for a row, and what is said of it.
def _cut(answer, body):
    answer["choices"][0]["prompt_logprobs"].pop()


def _added(answer, body):
    answer["choices"][0]["prompt_logprobs"].append({"5": {"logprob": -1.0, "rank": 1}})


def _swapped(answer, body):
    answer["choices"][0]["prompt_token_ids"][3] += 1


def _other(answer, body):
    place = answer["choices"][0]["prompt_logprobs"][3]
    del place[str(body["prompt"][3])]


def _shifted(answer, body):
    places = answer["choices"][0]["prompt_logprobs"]
    places[0] = places[1]


def _counted(answer, body):
    answer["usage"]["prompt_tokens"] += 1


def _chosen(body, answer, value):
    answer["choices"][0]["prompt_logprobs"][2][str(body["prompt"][2])]["logprob"] = value


def _ranked(answer, body):
    place = answer["choices"][0]["prompt_logprobs"][2]
    place["9"] = {"logprob": -0.5, "rank": 2}
    place[str(body["prompt"][2])] = {"logprob": -50.0, "rank": 1}


def _renamed(answer, body):
    answer["model"] = "another"


def _twice(answer, body):
    answer["choices"] *= 2


def _valued(value):
    return lambda answer, body: _chosen(body, answer, value)


LIES = {
    "cut": (_cut, r"\d+ tokens came back for \d+ that were sent: it was cut"),
    "added": (_added, "a token of its own was added"),
    "swapped": (_swapped, "it read other tokens than were sent: .* at 3"),
    "other": (_other, "token 3: nothing is said of token"),
    "shifted": (_shifted, "the first token has a log-probability"),
    "counted": (_counted, "a token of its own was added"),
    "nan": (_valued(math.nan), "log-probability is nan, not a finite number"),
    "infinite": (_valued(-math.inf), "log-probability is -inf, not a finite number"),
    "clamped": (_valued(-9999.0), "log-probability is -9999.0, not a finite number"),
    "null": (_valued(None), "log-probability is None, not a number"),
    "text": (_valued("-1.5"), "log-probability is '-1.5', not a number"),
    "positive": (_valued(0.25), "log-probability is 0.25, above zero"),
    "ranked": (_ranked, "it is said to come first, and another is likelier"),
    "renamed": (_renamed, "demo was asked, and another answered"),
    "twice": (_twice, "not one answer to one prompt"),
}


@pytest.mark.parametrize("name", LIES)
def test_every_lie_of_a_server_is_an_error_with_a_name(model, rows, name):
    change, said = LIES[name]
    honest = ScoringServer(model)
    with serving_aside(honest) as server:
        scorer = opened(server.url)

        def lie(answer, body):
            told = deepcopy(answer)
            change(told, body)
            return told

        honest.lie = lie
        with pytest.raises(EvidenceError, match=said) as caught:
            scorer.score(rows[:1])
    assert caught.value.hint


def _echo_unlike(answer, body):
    answer["choices"][0]["logprobs"]["tokens"][3] = "zebra"


def _echo_blind(answer, body):
    answer["choices"][0]["logprobs"]["top_logprobs"][3] = None


def _echo_null(answer, body):
    answer["choices"][0]["logprobs"]["token_logprobs"][3] = None


def _echo_cut(answer, body):
    for column in answer["choices"][0]["logprobs"].values():
        del column[-3:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_echo_unlike, "'zebra' came back where"),
        (_echo_blind, "nothing is said of the likeliest token"),
        (_echo_null, "log-probability is None, not a number"),
        (_echo_cut, "it was cut, or not echoed"),
    ],
)
def test_every_lie_of_an_echo_is_an_error_with_a_name(model, rows, change, said):
    honest = ScoringServer(model, style="echo")
    with serving_aside(honest) as server:
        scorer = opened(server.url)
        honest.lie = lambda answer, body: (change(answer, body), answer)[1]
        with pytest.raises(EvidenceError, match=said):
            scorer.score(rows[:1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"style": "silent"}, "echo, max_tokens=0: .* the answer has no logprobs"),
        ({"adds": (0,)}, "prompt_logprobs: .* it read other tokens than were sent|own was added"),
        ({"cuts": 4}, "4 tokens came back for|4 for"),
    ],
)
def test_a_server_that_cannot_tell_is_refused_when_it_is_opened(model, options, said):
    with (
        serving_aside(ScoringServer(model, **options)) as server,
        pytest.raises(EvidenceError, match="tells no log-probabilities of given") as caught,
    ):
        opened(server.url)
    assert re.search(said, str(caught.value))
    assert "embedded" in caught.value.hint


def test_an_error_in_an_answer_with_status_200_is_an_error(model, rows):
    honest = ScoringServer(model)
    with serving_aside(honest) as server:
        scorer = opened(server.url)
        honest.lie = lambda answer, body: {"error": {"message": "the engine is gone"}}
        with pytest.raises(ToolError, match="status 200: the engine is gone"):
            scorer.score(rows)
        honest.lie = lambda answer, body: {"object": "error", "message": "of an older form"}
        with pytest.raises(EvidenceError, match="of an older form"):
            opened(server.url)


def test_a_name_that_is_not_served_is_refused_before_anything_is_asked(model):
    honest = ScoringServer(model)
    with (
        serving_aside(honest) as server,
        pytest.raises(UsageError, match="serves no model 'dmeo'") as caught,
    ):
        opened(server.url, model="dmeo")
    assert "demo" in caught.value.hint
    assert not honest.rows


def test_of_several_models_one_must_be_named():
    two = {"data": [{"id": "a"}, {"id": "b"}]}
    with (
        serving_aside(lambda path, body: whole("200 OK", two)) as server,
        pytest.raises(UsageError, match="serves 2 models: a, b"),
    ):
        opened(server.url)


def test_a_server_that_dies_midway_is_an_error_with_its_obituary(model, rows):
    dying = ScoringServer(model)
    with serving_aside(dying) as server:
        scorer = opened(server.url, obituary=lambda: "ended with 137: out of memory")
        dying.dies_after = len(dying.rows) + 2
        with pytest.raises(ToolError, match="ended with 137: out of memory") as caught:
            scorer.score(rows * 4)
    assert caught.value.hint == "read the server's log"


def test_the_first_failure_ends_what_still_waits(model, rows):
    dying = ScoringServer(model)
    with serving_aside(dying) as server:
        scorer = opened(server.url, concurrency=2)
        before = len(dying.rows)
        dying.dies_after = before + 1
        with pytest.raises(ToolError):
            scorer.score(rows * 50)
        assert len(server.asked) < before + 20


def test_a_server_without_room_is_asked_again_and_not_forever(model, rows, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    full = ScoringServer(model)
    with serving_aside(full) as server:
        scorer = opened(server.url, concurrency=1)
        full.busy = 3
        assert len(scorer.score(rows)) == len(rows)
        assert waited == [0.25, 0.5, 1.0]
        full.busy = 10_000
        with pytest.raises(ToolError, match="status 503: no room"):
            scorer.score(rows)
    assert max(waited) <= 10


def test_a_refused_connection_is_waited_for_only_at_the_start(model, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serving_aside(ScoringServer(model)) as server:
        scorer = opened(server.url, start=30.0)
        url = server.url
    begun = time.monotonic()
    with pytest.raises(ToolError, match=r"connection refused|closed|reset|Remote end") as caught:
        scorer.score([[5, 6, 7]])
    with pytest.raises(ToolError, match="connection refused") as never:
        opened(url)
    assert caught.value.hint
    assert never.value.hint == "is the server up?"
    assert time.monotonic() - begun < 10


def test_an_answer_that_does_not_come_is_an_error(model):
    with (
        serving_aside(lambda path, body: (30.0,)) as server,
        pytest.raises(ToolError, match=r"no answer within 0\.2 s"),
    ):
        Completions(url=server.url, timeout=0.2).get("/models")


def test_an_answer_that_is_cut_off_is_an_error():
    broken = (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", CUT)
    with serving_aside(lambda path, body: broken) as server, pytest.raises(ToolError):
        connected(server.url).get("/models")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(UsageError, match="is no URL of a server"):
        Completions(url=url)


def test_a_key_goes_into_the_header_and_into_no_message(model):
    with serving_aside(ScoringServer(model)) as server:
        asked = connected(server.url, key="s3cret")
        asked.get("/models")
        assert "authorization: bearer s3cret" in server.heads[0].lower()
    assert "s3cret" not in repr(asked)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_urls_with_and_without_the_version_are_the_same(url):
    assert Completions(url=url).url == "http://h:1/v1"


def test_errors_of_scoring_are_errors_of_ours(model):
    with serving_aside(ScoringServer(model)) as server:
        scorer = opened(server.url)
        for bad in ([[]], [[5, 99_999]], [[-1, 5]]):
            with pytest.raises(BuildersError):
                scorer.score(bad)


def test_an_answer_without_end_and_one_too_deep_are_errors(monkeypatch):
    monkeypatch.setattr(completions, "_MOST", 1000)
    long = whole("200 OK", b" " * 2000)
    with serving_aside(lambda path, body: long) as server, pytest.raises(ToolError, match="longer"):
        connected(server.url).get("/models")
    monkeypatch.undo()
    deep = whole("200 OK", b"[" * 200_000)
    with serving_aside(lambda path, body: deep) as server, pytest.raises(ToolError, match="no obj"):
        connected(server.url).get("/models")
