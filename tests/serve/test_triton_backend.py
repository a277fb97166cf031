"""Every request that reaches Triton's Python backend gets exactly one final response."""

import json
import sys
import threading

import pytest

from builders.engine.embedded.types import Chunk
from builders.errors import ToolError, UsageError
from fakes import triton_backend_utils as pb
from fakes.triton_backend_utils import Request, Sender

sys.modules["triton_python_backend_utils"] = pb
from builders.engine.embedded import triton_backend  # noqa: E402 - needs the stand-in first
from builders.engine.embedded.triton_backend import Desk  # noqa: E402


class Ticket:
    def __init__(self, cancel):
        self.cancel = cancel


class Echo:
    """Answers with the prompt's words, one a token, when it is told to go on."""

    context = 16
    broken = ""

    def __init__(self, *, prompt_run=True):
        self.asked, self.sinks, self.closed = [], [], False
        self._run = prompt_run

    def tokenize(self, text):
        return text.split()

    def submit(self, prompt, sampling, sink):
        if prompt == "too long":
            raise UsageError("text_input has too many tokens", hint="shorten it")
        if prompt == "broken":
            raise ToolError("the engine is broken")
        if prompt == "bug":
            raise KeyError("bug")
        self.asked.append((prompt, sampling))
        self.sinks.append(sink)
        if self._run:
            self.answer(prompt, sink)
        return Ticket(lambda: sink(Chunk(text="", finish_reason="cancelled")))

    def answer(self, prompt, sink):
        for number, word in enumerate(prompt.split()):
            sink(Chunk(text=word, token_ids=(number,), logprobs=(-0.5,)))
        sink(Chunk(text="", finish_reason="stop"))

    def close(self):
        self.closed = True


@pytest.fixture
def open_desk():
    desks = []

    def opened(model=None, **options):
        desks.append(Desk(model or Echo(), **{"max_tokens": 8} | options))
        return desks[-1]

    yield opened
    for desk in desks:
        desk.close()


def ask(desk, **inputs):
    request = Request(**inputs)
    desk.admit(request)
    return request.sender


def error(sender):
    assert sender.final.wait(5)
    return sender.sent[-1].error


def test_without_streaming_the_whole_answer_is_one_response(open_desk):
    sender = ask(open_desk(), text_input="one two three")
    (response,) = sender.sent
    assert response.outputs["text_output"].tolist() == [b"onetwothree"]
    assert response.outputs["token_ids"].tolist() == [0, 1, 2]
    assert response.outputs["logprobs"].tolist() == [-0.5] * 3
    assert response.outputs["token_count"].tolist() == [3]
    assert response.outputs["finish_reason"].tolist() == [b"stop"]
    assert sender.final.is_set()


def test_with_streaming_each_piece_is_a_response_and_only_the_last_has_a_reason(open_desk):
    sender = ask(open_desk(), text_input="one two", stream=True)
    outputs = [response.outputs for response in sender.sent]
    assert [o["text_output"].tolist() for o in outputs] == [[b"one"], [b"two"], [b""]]
    assert [o["token_count"].tolist() for o in outputs] == [[1], [1], [0]]
    assert [o["finish_reason"].tolist() for o in outputs] == [[b""], [b""], [b"stop"]]
    assert sender.final.is_set()


def test_every_response_has_the_types_that_the_configuration_declares(open_desk):
    sender = ask(open_desk(), text_input="one", stream=True)
    kinds = {
        "text_output": "O", "token_ids": "i4", "logprobs": "f4", "token_count": "i4",
        "finish_reason": "O",
    }  # fmt: skip
    for response in sender.sent:
        assert {name: array.dtype.str[1:] for name, array in response.outputs.items()} == kinds


def test_all_that_is_said_of_sampling_reaches_the_model(open_desk):
    model = Echo()
    ask(
        open_desk(model), text_input="a", max_tokens=3, temperature=0.5, top_p=0.75, top_k=4,
        seed=7, stop=["x", "é"], ignore_eos=True,
    )  # fmt: skip
    sampling = model.asked[0][1]
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (3, 0.5, 0.75)
    assert (sampling.top_k, sampling.seed, sampling.ignore_eos) == (4, 7, True)
    assert sampling.stop == ("x", "é")


@pytest.mark.parametrize(("words", "tokens"), [(1, 8), (10, 6), (15, 1), (40, 1)])
def test_an_answer_that_asks_for_no_number_gets_as_many_tokens_as_fit(open_desk, words, tokens):
    model = Echo()
    ask(open_desk(model), text_input="w " * words)
    assert model.asked[0][1].max_tokens == tokens


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "text_input is missing"),
        ({"text_input": ["a", "b"]}, "text_input takes one value, not 2"),
        ({"text_input": b"\xff"}, "text_input is not valid UTF-8"),
        ({"text_input": "a", "stop": [b"\xff"]}, "stop is not valid UTF-8"),
        ({"text_input": "a", "stop": [""]}, "stop string"),
        ({"text_input": "a", "max_tokens": -1}, "max_tokens"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens"),
        ({"text_input": "a", "max_tokens": [1, 2]}, "max_tokens takes one value, not 2"),
        ({"text_input": "a", "stream": []}, "stream takes one value, not 0"),
        ({"text_input": "a", "temperature": float("nan")}, "temperature"),
        ({"text_input": "a", "temperature": -0.1}, "temperature"),
        ({"text_input": "a", "top_p": 0.0}, "top_p"),
        ({"text_input": "a", "top_k": -1}, "top_k"),
        ({"text_input": "a", "seed": 2**63}, "seed"),
        ({"text_input": "too long"}, r"text_input has too many tokens \(shorten it\)"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_gets_one_error_that_names_the_field(open_desk, inputs, named, stream):
    sender = ask(open_desk(), **{"stream": stream} | inputs)
    found = error(sender)
    assert found.code == pb.TritonError.INVALID_ARG
    assert len(sender.sent) == 1
    with pytest.raises(ValueError, match=named):
        raise ValueError(found.message)


def test_a_name_that_is_no_input_is_refused_with_the_nearest(open_desk):
    sender = ask(open_desk(), text_input="a", parameters={"max_token": 5})
    assert error(sender).message == "max_token: no such input (did you mean max_tokens?)"


def test_parameters_of_triton_itself_are_no_inputs(open_desk):
    own = {"triton_enable_empty_final_response": True}
    assert ask(open_desk(), text_input="a", parameters=own).sent[0].error is None


@pytest.mark.parametrize("prompt", ["broken", "bug"])
def test_a_model_that_fails_answers_with_an_internal_error(open_desk, prompt):
    found = error(ask(open_desk(), text_input=prompt))
    assert found.code == pb.TritonError.INTERNAL
    assert prompt in found.message


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_in_the_middle_of_an_answer_ends_it(open_desk, stream):
    model = Echo(prompt_run=False)
    sender = ask(open_desk(model), text_input="a", stream=stream)
    model.sinks[0](Chunk(text="a", token_ids=(1,), logprobs=(0.0,)))
    model.sinks[0](Chunk(text="", finish_reason="error", error="logits are not numbers"))
    assert error(sender).message == "logits are not numbers"
    assert len(sender.sent) == 1 + stream


def test_a_client_that_has_gone_cancels_its_request(open_desk):
    sender = Sender()
    ask(open_desk(Echo(prompt_run=False)), text_input="a", sender=sender)
    assert not sender.final.wait(0.2)
    sender.gone = True
    assert error(sender).code == pb.TritonError.CANCELLED


def test_nothing_follows_the_final_response(open_desk):
    model = Echo()
    sender = ask(open_desk(model), text_input="a", stream=True)
    sent = list(sender.sent)
    model.answer("late", model.sinks[0])
    assert sender.sent == sent


def test_a_response_that_cannot_be_sent_does_not_reach_the_model(open_desk):
    model = Echo(prompt_run=False)
    sender = ask(open_desk(model), text_input="a", sender=Sender(broken=True))
    model.sinks[0](Chunk(text="a", finish_reason="stop"))
    assert not sender.sent
    assert "shared memory" in pb.Logger.warnings[-1]


def test_an_answer_that_lost_a_piece_ends_as_an_error(open_desk):
    model = Echo(prompt_run=False)
    sender = ask(open_desk(model), text_input="a", stream=True, sender=Sender(broken=True))
    model.sinks[0](Chunk(text="lost", token_ids=(1,), logprobs=(0.0,)))
    sender.broken = False
    assert error(sender).code == pb.TritonError.CANCELLED


def test_closing_answers_what_is_still_open_and_closes_the_model(open_desk):
    model = Echo(prompt_run=False)
    desk = open_desk(model)
    sender = ask(desk, text_input="a")
    desk.close()
    assert error(sender).code == pb.TritonError.UNAVAILABLE
    assert model.closed


def test_answers_of_many_threads_do_not_mix(open_desk):
    model = Echo(prompt_run=False)
    desk = open_desk(model)
    senders = [ask(desk, text_input=f"a{n} b{n} c{n}") for n in range(8)]
    jobs = [
        threading.Thread(target=model.answer, args=(prompt, sink))
        for (prompt, _), sink in zip(model.asked, model.sinks, strict=True)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    texts = [sender.sent[0].outputs["text_output"][0].decode() for sender in senders]
    assert texts == [f"a{n}b{n}c{n}" for n in range(8)]


def arguments(root, **changes):
    values = {"engine": "engine", "max_tokens": "8"}
    parameters = {name: {"string_value": value} for name, value in values.items()}
    given = {
        "model_config": json.dumps({"parameters": parameters}),
        "model_repository": str(root), "model_version": "1", "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }  # fmt: skip
    return given | changes


def test_an_engine_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(pb.TritonModelException, match="engine"):
        triton_backend.TritonPythonModel().initialize(arguments(tmp_path))


@pytest.mark.parametrize(("kind", "device"), [("CPU", "cpu"), ("GPU", "cuda:1")])
def test_the_engine_beside_the_model_is_loaded_where_triton_says(
    tmp_path, monkeypatch, kind, device
):
    loaded = []

    class Loader:
        @staticmethod
        def load(engine, *, device):
            loaded.append((engine, device))
            return Echo()

    monkeypatch.setattr(triton_backend, "Embedded", Loader)
    model = triton_backend.TritonPythonModel()
    model.initialize(arguments(tmp_path, model_instance_kind=kind, model_instance_device_id="1"))
    request = Request(text_input="one two")
    model.execute([request])
    model.finalize()
    assert loaded == [(tmp_path / "1" / "engine", device)]
    assert request.sender.sent[0].outputs["token_count"].tolist() == [2]


def test_triton_hears_whether_the_engine_still_answers(tmp_path, monkeypatch):
    """Triton takes nothing but a boolean."""
    echo = Echo()

    class Loader:
        @staticmethod
        def load(engine, *, device):
            return echo

    monkeypatch.setattr(triton_backend, "Embedded", Loader)
    model = triton_backend.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    assert model.is_ready() is True
    echo.broken = "the engine failed while it computed: an illegal memory access"
    assert model.is_ready() is False
    model.finalize()
