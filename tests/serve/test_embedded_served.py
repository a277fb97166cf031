"""The embedded runtime behind a real tritonserver streams, refuses, cancels and keeps its bytes."""

import asyncio
import json
import time
import urllib.request

import pytest
from tokenizers import Tokenizer

from builders import engine, render, serve
from builders.bundle import Tree
from builders.engine import EngineSettings
from builders.errors import ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.serve import http
from fakes.checkpoints import read_safetensors, tiny_llama, write_safetensors

pytestmark = pytest.mark.slow
CONTEXT = 2048


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return made(tmp_path_factory.mktemp("embedded"))


def made(root, *, spoil=lambda checkpoint: None, **settings):
    checkpoint = tiny_llama(root / "checkpoint", context=CONTEXT)
    spoil(checkpoint)
    settings = EngineSettings(context=CONTEXT, concurrency=1, **settings)
    (root / "engine").mkdir()
    engine.build("embedded", checkpoint, settings, root / "engine", silent)
    context = render.Context(
        name="tiny",
        context=CONTEXT,
        concurrency=1,
        engine_digest=Tree.of(root / "engine").digest,
        max_tokens=5,
    )
    render.render("embedded", context, root / "engine", root / "repository")
    render.check(root / "repository", "embedded", context)
    return root / "repository"


@pytest.fixture(scope="module")
def served(repository, tmp_path_factory):
    before = Tree.of(repository)
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with serve.tritonserver(repository, log=log) as running:
        yield running
    assert Tree.of(repository) == before
    assert running.child.returncode == 0


def stream(served, prompt="The module", **options):
    async def gather():
        async with serve.endpoint(served)() as endpoint:
            given = {"max_tokens": 8, "ignore_eos": True} | options
            return [chunk async for chunk in endpoint.stream(prompt, **given)]

    return asyncio.run(gather())


def generate(served, prompt="The module", **inputs):
    return http.generate(served.http_url, "tiny", prompt, **{"ignore_eos": True} | inputs)


def test_tokens_arrive_one_by_one_and_the_last_piece_says_why(served):
    pieces = stream(served)
    assert sum(piece.tokens for piece in pieces) == 8
    assert max(piece.tokens for piece in pieces) == 1
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "length"


def test_every_way_gives_the_same_answer(served):
    streamed = stream(served)
    events = list(
        http.generate_stream(served.http_url, "tiny", "The module", max_tokens=8, ignore_eos=True)
    )
    whole = generate(served, max_tokens=8)
    for pieces in (streamed, events):
        assert "".join(piece.text for piece in pieces) == whole.text
        assert tuple(i for piece in pieces for i in piece.token_ids) == whole.token_ids
    assert (whole.tokens, whole.finish_reason) == (8, "length")


def test_what_is_served_is_what_is_scored(tmp_path):
    """Same greedy tokens, same log-probabilities: gates judge the runtime that serves."""
    repository = made(tmp_path, dtype=Format.FP32)
    with serve.tritonserver(repository, log=tmp_path / "triton.log") as running:
        streamed = stream(running, max_tokens=32)
        whole = generate(running, max_tokens=32)
    with engine.scorer(repository / "tiny" / "1" / "engine") as scorer:
        ids = [i for piece in streamed for i in piece.token_ids]
        (scores,) = scorer.score([[*scorer.tokenize("The module"), *ids]])
    said = [value for piece in streamed for value in piece.logprobs]
    assert len(ids) == len(said) == 32
    assert len(set(said)) > 16  # not a constant
    assert all(scores.greedy[-32:])
    assert scores.logprobs[-32:] == pytest.approx(said, abs=1e-4)
    assert whole.logprobs == pytest.approx(said, abs=1e-5)


def test_a_seed_repeats_an_answer_and_another_one_changes_it(served):
    answers = [
        generate(served, max_tokens=16, temperature=1.5, seed=seed).token_ids for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_an_answer_ends_before_a_stop_string(served):
    text = generate(served, max_tokens=8).text
    middle = text[len(text) // 2 :][:3]
    found = generate(served, max_tokens=8, stop=[middle])
    assert found.text == text[: text.index(middle)]
    assert found.finish_reason == "stop"


def test_a_request_without_a_number_gets_what_the_repository_says(served):
    assert generate(served).tokens == 5


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": CONTEXT}, "max_tokens 2048 exceed the context"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"prompt": ""}, "prompt has no tokens"),
        ({"prompt": "word " * CONTEXT}, "exceed the context of 2048"),
    ],
)
def test_a_bad_request_is_an_error_that_names_the_field(served, inputs, named):
    with pytest.raises(ToolError, match=f"tiny: .*{named}"):
        generate(served, **inputs)
    assert generate(served).tokens == 5


def test_a_bad_request_over_grpc_is_an_error_too(served):
    with pytest.raises(ToolError, match="max_tokens must be at least 1, not -1"):
        stream(served, max_tokens=-1)
    with pytest.raises(ToolError, match="temperature must be a finite number"):
        stream(served, temperature=float("nan"))


def post(served, **body):
    """Send what our own client would not."""
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/tiny/generate",
        json.dumps(body).encode(),
        {"Connection": "close"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request):
        pass
    with caught.value as answer:
        return answer.code, json.loads(answer.read())["error"]


def test_a_name_that_is_no_input_is_refused_by_client_and_server(served):
    with pytest.raises(UsageError, match="no input max_token"):
        generate(served, max_token=3)
    status, said = post(served, text_input="a", max_token=3)
    assert (status, said) == (400, "max_token: no such input (did you mean max_tokens?)")


def test_a_request_without_a_prompt_is_refused_where_triton_would_let_it_in(served):
    assert post(served, max_tokens=3) == (400, "text_input is missing")


def test_a_client_that_leaves_frees_its_place_for_the_next(served):
    """One request runs at a time here, so the next one waits for the end of the one before."""

    async def leave():
        async with serve.endpoint(served)() as endpoint:
            answer = endpoint.stream("a", max_tokens=CONTEXT - 8, ignore_eos=True)
            await anext(answer)
            await answer.aclose()

    begun = time.monotonic()
    whole = sum(piece.tokens for piece in stream(served, max_tokens=256))
    a_token = (time.monotonic() - begun) / whole
    asyncio.run(leave())
    begun = time.monotonic()
    assert generate(served, max_tokens=1).tokens == 1
    assert time.monotonic() - begun < a_token * CONTEXT / 2


def test_requests_share_one_connection(served):
    async def one(endpoint):
        answer = endpoint.stream("The module", max_tokens=8, ignore_eos=True)
        return tuple([i async for chunk in answer for i in chunk.token_ids])

    async def gather():
        async with serve.endpoint(served)() as endpoint:
            return await asyncio.gather(*(one(endpoint) for _ in range(4)))

    assert set(asyncio.run(gather())) == {generate(served, max_tokens=8).token_ids}


def test_an_engine_that_is_damaged_is_named_in_the_error(repository, tmp_path):
    damaged = tmp_path / "repository" / "tiny"
    (damaged / "1" / "engine").mkdir(parents=True)
    for name in ("config.pbtxt", "1/model.py"):
        (damaged / name).write_bytes((repository / "tiny" / name).read_bytes())
    with (
        pytest.raises(ToolError, match=rf"{damaged}/1/engine/engine\.json: no such file"),
        serve.tritonserver(damaged.parent, log=tmp_path / "log"),
    ):
        pass


def no_numbers_for(text):
    """Return what lets a model compute no numbers once it has read the last token of a text."""

    def spoil(checkpoint):
        token = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text).ids[-1]
        tensors = read_safetensors(checkpoint / "model.safetensors")
        tensors["model.embed_tokens.weight"][1][token] = 0x7FC0  # bfloat16's NaN
        write_safetensors(checkpoint / "model.safetensors", tensors)

    return spoil


def test_logits_that_are_no_numbers_are_an_error_to_each_client_and_the_next_is_answered(tmp_path):
    repository = made(tmp_path, spoil=no_numbers_for("~"))
    with serve.tritonserver(repository, log=tmp_path / "triton.log") as running:
        for way in (stream, generate):
            with pytest.raises(ToolError, match="logits that are not numbers"):
                way(running, "~")
            assert way(running, "The module", max_tokens=4)
        assert http.ready(running.http_url)
