"""Answers are the same alone and in company, end as asked, and can be called off."""

import threading
import time
import weakref

import numpy as np
import pytest
import torch

from builders.engine.embedded.model import Embedded
from builders.engine.embedded.types import Chunk, Sampling
from builders.errors import BuildersError, ToolError, UsageError
from builders.formats import Format

PROMPTS = ["def f(x):", "Return the list", "class A", "If the argument is", "import", "\n"]


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self, at_first=None):
        self.chunks, self.at_first = [], at_first

    def __call__(self, chunk: Chunk):
        self.chunks.append(chunk)
        if self.at_first and len(self.chunks) == 1:
            self.at_first()

    @property
    def text(self):
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def tokens(self):
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def reason(self):
        return self.chunks[-1].finish_reason


def asked(model, prompts, **sampling):
    heard = [Heard() for _ in prompts]
    tickets = [
        model.submit(prompt, Sampling(**({"seed": i} | sampling)), sink)
        for i, (prompt, sink) in enumerate(zip(prompts, heard, strict=True))
    ]
    assert all(ticket.wait(60) for ticket in tickets)
    return heard


def answer(model, prompt, **sampling):
    return asked(model, [prompt], **sampling)[0]


def test_one_chunk_a_token_and_the_last_says_why(tiny):
    heard = answer(tiny, "def f", max_tokens=9, ignore_eos=True)
    assert [len(chunk.token_ids) for chunk in heard.chunks] == [1] * 9
    assert [chunk.finish_reason for chunk in heard.chunks] == [None] * 8 + ["length"]
    assert heard.text == tiny.detokenize(heard.tokens)


def test_greedy_answers_are_what_scoring_calls_greedy(tiny):
    prompt = tiny.tokenize("Return the list")
    heard = answer(tiny, prompt, max_tokens=30, ignore_eos=True)
    (scores,) = tiny.score([prompt + heard.tokens])
    made = slice(len(prompt) - 1, None)
    assert scores.greedy[made].all()
    logprobs = [value for chunk in heard.chunks for value in chunk.logprobs]
    np.testing.assert_allclose(scores.logprobs[made], logprobs, atol=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}])
def test_an_answer_does_not_depend_on_its_neighbours(tiny, sampling):
    """Six requests on three rows: some wait, rows are freed and filled again."""
    wanted = [(prompt, 5 + 7 * (i % 3)) for i, prompt in enumerate(PROMPTS)]
    heard = [Heard() for _ in wanted]
    tickets = [
        tiny.submit(prompt, Sampling(max_tokens=n, seed=i, ignore_eos=True, **sampling), heard[i])
        for i, (prompt, n) in enumerate(wanted)
    ]
    assert all(ticket.wait(60) for ticket in tickets)
    for i, (prompt, n) in enumerate(wanted):
        alone = answer(tiny, prompt, max_tokens=n, seed=i, ignore_eos=True, **sampling)
        assert heard[i].tokens == alone.tokens
        assert heard[i].text == alone.text


def test_logprobs_are_the_models_own_whatever_the_temperature(tiny):
    prompt = tiny.tokenize("class A")
    heard = answer(tiny, prompt, max_tokens=12, temperature=2.0, top_k=50, ignore_eos=True)
    (scores,) = tiny.score([prompt + heard.tokens])
    logprobs = [value for chunk in heard.chunks for value in chunk.logprobs]
    np.testing.assert_allclose(scores.logprobs[len(prompt) - 1 :], logprobs, atol=1e-4)


def test_another_seed_gives_another_answer(tiny):
    first, second = (
        answer(tiny, "def", max_tokens=20, temperature=1.0, seed=seed, ignore_eos=True)
        for seed in (1, 2)
    )
    assert first.tokens != second.tokens


def test_no_more_run_at_once_than_the_engine_has_rows(tiny):
    """The fourth request on three rows is answered only after one of the first has ended."""
    order = []
    tickets = []
    for number in range(4):

        def sink(chunk, number=number):
            order.append((number, chunk.finish_reason))

        tickets.append(tiny.submit("def", Sampling(max_tokens=8, ignore_eos=True), sink))
    assert all(ticket.wait(60) for ticket in tickets)
    begun = order.index((3, None))
    assert any(reason == "length" for number, reason in order[:begun] if number < 3)


def test_the_stop_string_ends_the_answer_and_does_not_show(demo):
    whole = answer(demo, "Return the list of", max_tokens=40)
    stop = whole.text[10:13]
    heard = answer(demo, "Return the list of", max_tokens=40, stop=(stop, "never"))
    assert heard.reason == "stop"
    assert heard.text == whole.text[: whole.text.index(stop)]


def test_a_stop_string_that_does_not_come_holds_nothing_back_in_the_end(demo):
    whole = answer(demo, "Return the list of", max_tokens=12)
    heard = answer(demo, "Return the list of", max_tokens=12, stop=(whole.text[-3:] + "~~",))
    assert heard.text == whole.text
    assert heard.reason == "length"


def test_the_end_of_sequence_token_ends_the_answer_unless_ignored(tiny, monkeypatch):
    made = answer(tiny, "def f(x):", max_tokens=12, ignore_eos=True).tokens
    forced = made[4]
    monkeypatch.setattr(tiny, "eos", frozenset({forced}))
    heard = answer(tiny, "def f(x):", max_tokens=12)
    assert heard.tokens == made[: made.index(forced)]
    assert heard.reason == "stop"
    assert heard.chunks[-1].token_ids == ()
    assert answer(tiny, "def f(x):", max_tokens=12, ignore_eos=True).tokens == made


def test_generate_yields_the_same_chunks_and_stops_when_nobody_listens(tiny):
    sampling = Sampling(max_tokens=10, ignore_eos=True)
    chunks = list(tiny.generate("def f", sampling))
    assert [c.token_ids for c in chunks] == [
        c.token_ids for c in answer(tiny, "def f", max_tokens=10, ignore_eos=True).chunks
    ]
    for _ in tiny.generate("def f", Sampling(max_tokens=100, ignore_eos=True)):
        break
    assert answer(tiny, "def f", max_tokens=1).reason in {"length", "stop"}


def test_a_running_request_can_be_cancelled_and_says_so(tiny):
    tickets = []
    heard = Heard(at_first=lambda: [ticket.cancel() for ticket in tickets])
    with held(tiny) as release:
        tickets.append(tiny.submit("def", Sampling(max_tokens=90, ignore_eos=True), heard))
        release.set()
        assert tickets[0].wait(60)
    assert heard.reason == "cancelled"
    assert len(heard.tokens) < 90
    assert heard.text == tiny.detokenize(heard.tokens)


class held:
    """Keeps the model's thread busy in a sink until it is released."""

    def __init__(self, model):
        self.model, self.gate, self.busy = model, threading.Event(), threading.Event()

    def __enter__(self):
        def wait(chunk):
            if not self.busy.is_set():
                self.busy.set()
                self.gate.wait(30)

        self.ticket = self.model.submit("x", Sampling(max_tokens=2, ignore_eos=True), wait)
        assert self.busy.wait(30)
        return self.gate

    def __exit__(self, *_):
        self.gate.set()
        assert self.ticket.wait(30)


def test_a_waiting_request_can_be_cancelled_before_it_begins(tiny):
    heard = Heard()
    with held(tiny) as release:
        ticket = tiny.submit("def", Sampling(max_tokens=50, ignore_eos=True), heard)
        ticket.cancel()
        release.set()
        assert ticket.wait(60)
    assert [chunk.finish_reason for chunk in heard.chunks] == ["cancelled"]
    assert heard.tokens == []


def test_cancelling_what_has_ended_changes_nothing(tiny):
    heard = Heard()
    ticket = tiny.submit("def", Sampling(max_tokens=2, ignore_eos=True), heard)
    assert ticket.wait(60)
    ticket.cancel()
    assert heard.reason == "length"
    assert len(heard.chunks) == 2


def test_a_sink_that_raises_ends_only_its_own_answer(tiny):
    def broken(chunk):
        raise LookupError("a bug of the caller's")

    ticket = tiny.submit("def", Sampling(max_tokens=50, ignore_eos=True), broken)
    heard = answer(tiny, "class", max_tokens=20, ignore_eos=True)
    assert ticket.wait(60)
    assert len(heard.tokens) == 20


@pytest.mark.parametrize(
    ("prompt", "sampling", "said"),
    [
        ("", {}, "no tokens"),
        ([], {}, "no tokens"),
        ([1, 4096], {}, "outside the vocabulary"),
        ([1] * 128, {"max_tokens": 1}, "exceed the context of 128"),
        ([1] * 100, {"max_tokens": 29}, "100 prompt tokens and max_tokens 29 exceed"),
    ],
)
def test_prompts_that_cannot_be_answered_whole_are_refused(tiny, prompt, sampling, said):
    with pytest.raises(UsageError, match=said):
        tiny.submit(prompt, Sampling(**sampling), lambda chunk: None)


def test_an_answer_may_fill_the_context_to_its_last_token(tiny):
    heard = answer(tiny, [5] * 100, max_tokens=28, ignore_eos=True)
    assert len(heard.tokens) == 28


def test_closing_cancels_what_runs_and_refuses_what_comes(checkpoint, make_engine):
    model = Embedded.load(make_engine(checkpoint, concurrency=1), device="cpu")
    running, waiting = Heard(), Heard()
    with held(model) as release:
        tickets = [
            model.submit("def", Sampling(max_tokens=100, ignore_eos=True), sink)
            for sink in (running, waiting)
        ]
        release.set()
        model.close()
    assert all(ticket.wait(1) for ticket in tickets)
    assert [heard.reason for heard in (running, waiting)] == ["cancelled", "cancelled"]
    with pytest.raises(ToolError, match="closed"):
        model.submit("def", Sampling(), lambda chunk: None)
    model.close()


@pytest.fixture
def own(checkpoint, make_engine):
    """The tiny Llama once more, to be spoiled."""
    with Embedded.load(make_engine(checkpoint, dtype=Format.FP32), device="cpu") as model:
        yield model


def unused(model, **sampling):
    """Return a token that none of these answers has."""
    met = {0, *model.eos}
    for i, prompt in enumerate(PROMPTS):
        heard = answer(model, prompt, **{"seed": i} | sampling)
        met |= {*model.tokenize(prompt), *heard.tokens}
    return max(set(range(model.vocabulary)) - met)


def spoil(model, token):
    """Let whatever has read this token come to nothing."""
    model._loaded.module.model.embed_tokens.weight.data[token] = torch.nan


def plant(model, fault):
    """Let ``fault`` look at what goes into the second layer."""
    layer = model._loaded.module.model.layers[1]
    layer.register_forward_pre_hook(lambda _, inputs: fault(inputs[0]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_one_answer_and_no_other(tiny, own, temperature):
    """Seven requests on three rows, one in their middle spoiled; each other answer is its own."""
    sampling = {"max_tokens": 20, "ignore_eos": True, "temperature": temperature}
    expected = [answer(tiny, p, **{"seed": i} | sampling).tokens for i, p in enumerate(PROMPTS)]
    bad = unused(tiny, **sampling)
    spoil(own, bad)
    wanted = [*PROMPTS[:2], [bad] * 9, *PROMPTS[2:]]
    heard = [Heard() for _ in wanted]
    tickets = [
        own.submit(prompt, Sampling(**{"seed": i - (i > 2)} | sampling), heard[i])
        for i, prompt in enumerate(wanted)
    ]
    assert all(ticket.wait(60) for ticket in tickets)
    spoiled = heard.pop(2)
    assert [chunk.finish_reason for chunk in spoiled.chunks] == ["error"]
    assert "not numbers" in spoiled.chunks[-1].error
    assert [h.tokens for h in heard] == expected
    assert not own.broken


def test_who_gets_the_row_of_a_spoiled_request_reads_nothing_of_it(tiny, own):
    """What is masked has no weight, and no weight times NaN is NaN."""
    sampling = {"max_tokens": 20, "ignore_eos": True}
    expected = [answer(tiny, prompt, **sampling).tokens for prompt in ("def", [5] * 90)]
    bad = unused(tiny, **sampling)
    spoil(own, bad)
    assert answer(own, [bad] * 100, **sampling).reason == "error"
    assert [h.tokens for h in asked(own, ["def", [5] * 90], **sampling)] == expected


def test_an_answer_that_is_spoiled_on_the_way_ends_with_an_error(tiny, own):
    """A client that streams has heard the beginning, and must not take it for the whole."""
    made = answer(tiny, "def", max_tokens=20, ignore_eos=True).tokens
    known = {*tiny.tokenize("def"), made[0]}
    new = next(i for i, token in enumerate(made) if token not in known)
    spoil(own, made[new])
    heard = answer(own, "def", max_tokens=20, ignore_eos=True)
    assert heard.tokens == made[: new + 1]
    assert (heard.reason, heard.chunks[-1].token_ids) == ("error", ())


def test_a_model_that_computes_no_numbers_at_all_says_so_to_each(own):
    own._loaded.module.model.norm.weight.data[3] = torch.nan
    for _ in range(2):
        heard = asked(own, ["def", "class"], max_tokens=5)
        assert {h.reason for h in heard} == {"error"}
        assert all("not numbers" in h.chunks[-1].error for h in heard)


def test_a_prompt_that_memory_does_not_hold_fails_alone_and_gives_back_what_it_took(tiny, own):
    left = []

    def full(hidden):
        if hidden.shape[1] > 50:
            left.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory")

    plant(own, full)
    sampling = {"max_tokens": 20, "ignore_eos": True}
    expected = [answer(tiny, prompt, **sampling).tokens for prompt in PROMPTS]
    heard = [Heard() for _ in PROMPTS]
    tickets = [own.submit(p, Sampling(**sampling), h) for p, h in zip(PROMPTS, heard, strict=True)]
    large = answer(own, [5] * 60, **sampling)
    assert (large.reason, large.tokens) == ("error", [])
    assert "no memory left" in large.chunks[-1].error
    assert [ref() for ref in left] == [None]
    assert all(ticket.wait(60) for ticket in tickets)
    assert [h.tokens for h in heard] == expected
    assert [answer(own, prompt, **sampling).tokens for prompt in PROMPTS] == expected


def test_where_a_step_finds_no_memory_one_request_makes_room_for_the_others(tiny, own):
    """And those that wait are not let in to the same end."""

    def full(hidden):
        if hidden.shape[:2] == (3, 1):
            raise torch.OutOfMemoryError("CUDA out of memory")

    plant(own, full)
    sampling = {"max_tokens": 20, "ignore_eos": True}
    with held(own):
        heard = [Heard() for _ in PROMPTS]
        tickets = [
            own.submit(prompt, Sampling(**sampling), sink)
            for prompt, sink in zip(PROMPTS, heard, strict=True)
        ]
    assert all(ticket.wait(60) for ticket in tickets)
    assert sorted(h.reason for h in heard) == ["error"] + ["length"] * 5
    for prompt, h in zip(PROMPTS, heard, strict=True):
        if h.reason == "length":
            assert h.tokens == answer(tiny, prompt, **sampling).tokens


def test_a_failure_of_the_engine_ends_all_answers_with_the_reason(own):
    def broken(hidden):
        raise RuntimeError("an illegal memory access was encountered")

    assert answer(own, "def", max_tokens=2, ignore_eos=True).reason == "length"
    assert own.broken == ""
    with held(own) as release:
        plant(own, broken)
        heard = [Heard() for _ in range(4)]
        tickets = [own.submit("def", Sampling(max_tokens=5), sink) for sink in heard]
        release.set()
        assert all(ticket.wait(60) for ticket in tickets)
    assert [h.reason for h in heard] == ["error"] * 4
    assert all("illegal memory access" in h.chunks[-1].error for h in heard)
    assert "failed while it computed" in own.broken
    with pytest.raises(BuildersError, match="failed while it computed"):
        own.submit("def", Sampling(), lambda chunk: None)


def test_a_failure_while_text_is_made_leaves_nobody_waiting(own, monkeypatch):
    """The text that is held back cannot be made either, and the error is told all the same."""

    def broken(tokens):
        raise RuntimeError("no such token")

    with held(own) as release:
        heard = [Heard() for _ in range(4)]
        tickets = [own.submit("def", Sampling(max_tokens=9), sink) for sink in heard]
        monkeypatch.setattr(own._tokenizer, "decode", broken)
        release.set()
        assert all(ticket.wait(60) for ticket in tickets)
    assert [h.reason for h in heard] == ["error"] * 4


def test_scoring_and_generating_share_a_model_from_many_threads(tiny):
    row = tiny.tokenize("Return the list of all")
    expected = tiny.score([row])[0].logprobs
    found = []
    scorer = threading.Thread(target=lambda: found.extend(tiny.score([row])[0] for _ in range(5)))
    scorer.start()
    heard = asked(tiny, PROMPTS, max_tokens=20, ignore_eos=True)
    scorer.join()
    for scores in found:
        np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
    alone = answer(tiny, PROMPTS[0], max_tokens=20, ignore_eos=True)
    assert heard[0].tokens == alone.tokens


def test_an_idle_model_takes_no_time(tiny):
    answer(tiny, "def", max_tokens=2)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
