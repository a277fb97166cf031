"""Every variant loads on a real tritonserver, with auto-completion and without, and streams.

What would compute is a stand-in (tests/fakes/stand_ins.py): this proves configurations, programs
and the wire, and nothing of TensorRT-LLM or vLLM.
"""

import asyncio
import json
import urllib.request

import pytest

from builders import render, serve
from builders.bundle import Tree
from builders.errors import ToolError
from builders.render.context import Compiled
from builders.serve import Hosting, http
from fakes.checkpoints import DEMO, TOKENIZER_FILES
from fakes.stand_ins import StandIn
from fakes.triton_repositories import context
from fakes.trtllm.checkpoints import write_engine

pytestmark = pytest.mark.slow
VARIANTS = ("llmapi", "vllm", "inflight_batcher_llm")


def engine_for(variant, root):
    """Write an engine in the shape that the variant's builder gives it."""
    if variant == "inflight_batcher_llm":
        engine = write_engine(root)
        place = engine / "tokenizer"
    else:
        engine, place = root, root / "checkpoint"
    place.mkdir(parents=True)
    for name in (*TOKENIZER_FILES, "config.json"):
        (place / name).write_bytes((DEMO / name).read_bytes())
    return engine


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return StandIn.make(tmp_path_factory.mktemp("python") / "env")


def start(variant, stand_in, root, *, auto_complete):
    engine = engine_for(variant, root / "engine")
    chosen = context(compiled=Compiled(batch=1))  # processes that load tokenizers, one of each
    render.render(variant, chosen, engine, root / "repository")
    how = Hosting(runtime=stand_in, auto_complete=auto_complete)
    return serve.tritonserver(root / "repository", log=root / "triton.log", how=how)


@pytest.fixture(scope="module", params=[False, True], ids=["as-said", "auto-complete"])
def completing(request):
    return request.param


@pytest.fixture(scope="module")
def llmapi(stand_in, completing, tmp_path_factory):
    root = tmp_path_factory.mktemp("llmapi")
    with start("llmapi", stand_in, root, auto_complete=completing) as server:
        before = Tree.of(root / "repository")
        yield server
    assert Tree.of(root / "repository") == before
    assert server.child.returncode == 0


@pytest.fixture(scope="module")
def inflight(stand_in, completing, tmp_path_factory):
    root = tmp_path_factory.mktemp("inflight")
    with start("inflight_batcher_llm", stand_in, root, auto_complete=completing) as server:
        yield server
    assert server.child.returncode == 0


@pytest.fixture(scope="module")
def vllm(stand_in, completing, tmp_path_factory):
    root = tmp_path_factory.mktemp("vllm")
    with start("vllm", stand_in, root, auto_complete=completing) as server:
        yield server
    assert server.child.returncode == 0


def stream(server, prompt, **options):
    async def gather():
        async with serve.endpoint(server)() as endpoint:
            given = {"max_tokens": 8} | options
            return [chunk async for chunk in endpoint.stream(prompt, **given)]

    return asyncio.run(gather())


def post(server, path, **body):
    """Ask as a client does that is not ours; return each line of the answer."""
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/{path}",
        json.dumps(body).encode(),
        {"Connection": "close"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return [json.loads(line.removeprefix("data:")) for line in lines if line.strip()]


def test_the_llm_api_streams_what_is_new_and_says_why_it_ends(llmapi):
    pieces = stream(llmapi, "one two three four")
    assert [piece.text for piece in pieces if piece.text] == ["one", " two", " three", " four"]
    assert sum(piece.tokens for piece in pieces) == 4
    assert pieces[-1].finish_reason == "stop"
    assert stream(llmapi, "one two three", max_tokens=2)[-1].finish_reason == "length"


def test_the_llm_api_answers_whole_over_http(llmapi):
    whole = http.generate(llmapi.http_url, "demo", "one two three", max_tokens=2)
    assert (whole.text, whole.tokens, whole.finish_reason) == ("one two", 2, "length")


def test_nvidia_s_own_names_are_understood(llmapi):
    given = {"text_input": "one two three", "sampling_param_max_tokens": 2}
    (answer,) = post(llmapi, "demo/generate", return_cumulative_logprob=True, **given)
    assert (answer["text_output"], answer["cumulative_logprob"]) == ("one two", -1.0)
    told = post(llmapi, "demo/generate_stream", streaming=True, **given)
    assert "".join(piece["text_output"] for piece in told) == "one two"


def test_no_piece_of_a_stop_string_is_told(llmapi):
    pieces = stream(llmapi, "one two three four", stop=(" three",))
    assert "".join(piece.text for piece in pieces) == "one two"
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 1, "sampling_param_max_tokens": 2}, "say the same"),
        ({"prompt": "fail"}, "the engine failed"),
        ({"prompt": "word " * 1100}, "longer than max_seq_len"),
    ],
)
def test_a_bad_request_to_the_llm_api_is_an_error(llmapi, inputs, named):
    with pytest.raises(ToolError, match=named):
        http.generate(llmapi.http_url, "demo", **{"prompt": "one"} | inputs)
    assert http.generate(llmapi.http_url, "demo", "one").text == "one"


def test_a_client_that_leaves_ends_its_request(llmapi):
    async def leave():
        async with serve.endpoint(llmapi)() as endpoint:
            answer = endpoint.stream("babble", max_tokens=10**6)
            await anext(answer)
            await answer.aclose()

    asyncio.run(leave())
    assert http.generate(llmapi.http_url, "demo", "one").text == "one"


def test_five_models_stream_text_that_adds_up_to_the_whole(inflight):
    assert inflight.model == "demo"
    assert set(inflight.models) == {
        "demo", "ensemble", "postprocessing", "preprocessing", "tensorrt_llm",
    }  # fmt: skip
    prompt = "Return the größte value: naïve 😀 text."
    pieces = stream(inflight, prompt, max_tokens=64, ignore_eos=True)
    whole = http.generate(inflight.http_url, "demo", prompt, max_tokens=64, ignore_eos=True)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert "Return the größte value: naïve 😀" in whole.text
    assert "\ufffd" not in whole.text.removesuffix("\ufffd")
    assert sum(piece.tokens for piece in pieces) == whole.tokens == 64
    assert (pieces[-1].finish_reason, whole.finish_reason) == ("length", "length")


def test_a_stop_string_ends_a_compiled_engine_s_answer_before_it(inflight):
    pieces = stream(inflight, "Return the value", max_tokens=64, stop=(" the",))
    assert "".join(piece.text for piece in pieces) == "Return"
    assert pieces[-1].finish_reason == "stop"
    whole = http.generate(
        inflight.http_url, "demo", "Return the value", max_tokens=64, stop=[" the"]
    )
    assert (whole.text, whole.finish_reason) == ("Return", "stop")


def test_the_ensemble_answers_clients_of_nvidia_s_repository(inflight):
    given = {"text_input": "Return the value", "max_tokens": 3}
    (whole,) = post(inflight, "ensemble/generate", **given)
    told = post(inflight, "ensemble/generate_stream", stream=True, **given)
    assert "".join(piece["text_output"] for piece in told) == whole["text_output"]
    assert len(told) == 3


def test_the_ensemble_obeys_nvidia_s_word_lists(inflight):
    given = {"text_input": "Return the value", "max_tokens": 30, "stop_words": [" the"]}
    (whole,) = post(inflight, "ensemble/generate", **given)
    assert whole["text_output"] == "Return the"


def test_a_bad_request_to_a_compiled_engine_is_an_error(inflight):
    with pytest.raises(ToolError, match="max_tokens must be at least 1"):
        http.generate(inflight.http_url, "demo", "one", max_tokens=0)
    assert http.generate(inflight.http_url, "demo", "Return", max_tokens=1).tokens == 1


def test_smoke_passes_on_both_lanes(llmapi, inflight):
    assert serve.smoke_test(llmapi, tokens=1) == "Hello"
    assert serve.smoke_test(inflight, tokens=1)


def test_vllm_streams_word_by_word(vllm):
    told = post(vllm, "demo/generate_stream", text_input="one two three", stream=True)
    assert [piece["text_output"] for piece in told] == ["one", "two", "three"]
    (whole,) = post(
        vllm, "demo/generate", text_input="one two three", sampling_parameters='{"max_tokens": 2}'
    )
    assert whole["text_output"] == "one two"


def test_files_that_disagree_on_streaming_do_not_load(stand_in, tmp_path):
    engine = engine_for("llmapi", tmp_path / "engine")
    render.render("llmapi", context(), engine, tmp_path / "repository")
    file = tmp_path / "repository" / "demo" / "1" / "model.yaml"
    file.write_text(file.read_text().replace("decoupled: true", "decoupled: false"))
    how = Hosting(runtime=stand_in)
    with (
        pytest.raises(ToolError, match=r"decoupled is False there and True in config\.pbtxt"),
        serve.tritonserver(tmp_path / "repository", log=tmp_path / "log", how=how),
    ):
        pass


def test_an_argument_that_the_version_does_not_know_is_told(stand_in, tmp_path):
    engine = engine_for("llmapi", tmp_path / "engine")
    render.render("llmapi", context(), engine, tmp_path / "repository")
    file = tmp_path / "repository" / "demo" / "1" / "model.yaml"
    file.write_text(f"sampler_type: x\n{file.read_text()}")
    how = Hosting(runtime=stand_in)
    with (
        pytest.raises(ToolError, match="sampler_type: Extra inputs are not permitted"),
        serve.tritonserver(tmp_path / "repository", log=tmp_path / "log", how=how),
    ):
        pass
