"""The programs beside our configurations tell a text once, whole, and never past a stop string."""

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import triton_backend_utils as pb

sys.modules.setdefault("triton_python_backend_utils", pb)
from builders.render.programs import bls, llmapi  # noqa: E402 - need the stand-in first

TEXTS = st.text(alphabet="ab c\nüß😀", max_size=30)
STOPS = st.lists(st.text(alphabet="ab cü", min_size=1, max_size=3), max_size=2)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=40)


def decode(rows):
    """A tokenizer whose tokens are bytes: characters are spread over up to four of them."""
    return [bytes(row).decode(errors="replace") for row in rows]


def until(text, stops):
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def chunks(items, cuts):
    place = 0
    for cut in cuts * (len(items) or 1):
        if place >= len(items):
            return
        yield items[place : place + cut]
        place += cut


@given(TEXTS, STOPS, CUTS)
def test_pieces_of_a_compiled_engine_s_answer_add_up_to_what_comes_before_a_stop(text, stops, cuts):
    growing = bls.Growing(decode, stops)
    told = []
    for piece in chunks(list(text.encode()), cuts):
        told.append(growing.add(piece))
        assert "\ufffd" not in told[-1]
        if growing.ended:
            break
    told.append(growing.rest())
    assert "".join(told) == growing.text == until(text, stops)


def test_a_character_that_never_ends_is_told_at_the_end():
    growing = bls.Growing(decode, ())
    assert growing.add(list("ü".encode())[:1]) == ""
    assert growing.rest() == "\ufffd"


def asked(stops=(), tell=()):
    return SimpleNamespace(stop=tuple(stops), tell=frozenset(tell))


@given(TEXTS, STOPS, CUTS)
def test_pieces_of_the_llm_api_s_answer_add_up_and_hold_back_what_may_be_a_stop(text, stops, cuts):
    """The LLM API cuts the stop string off at the end; until then its text may hold a part."""
    whole = until(text, stops)
    answer, told, ids = llmapi.Growing(asked(stops)), [], 0
    seen = ""
    for piece in chunks(list(text), cuts):
        seen += "".join(piece)
        if until(seen, stops) != seen:
            break
        ids += 1
        out = SimpleNamespace(text=seen, token_ids=list(range(ids)), finish_reason=None)
        told.append(answer.response(out, final=False).outputs)
    last = SimpleNamespace(text=whole, token_ids=list(range(ids + 1)), finish_reason="stop")
    told.append(answer.response(last, final=True).outputs)
    assert "".join(piece["text_output"][0].decode() for piece in told) == whole
    assert [i for piece in told for i in piece["token_ids"].tolist()] == list(range(ids + 1))
    assert [piece["finish_reason"][0] for piece in told] == [b""] * (len(told) - 1) + [b"stop"]


def config(*, decoupled=True, batch=0):
    return {"model_transaction_policy": {"decoupled": decoupled}, "max_batch_size": batch}


GOOD = "model: here\ntriton_config: {max_batch_size: 0, decoupled: true}\ndtype: auto\n"


def test_a_model_beside_the_file_is_found_and_a_name_stays_a_name(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(GOOD)
    assert llmapi.read_arguments(file, config()) == {"model": "here", "dtype": "auto"}
    (tmp_path / "here").mkdir()
    assert llmapi.read_arguments(file, config())["model"] == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        (GOOD, config(decoupled=False), "decoupled is True there and False"),
        (GOOD, config(batch=4), "max_batch_size is 0 there and 4"),
        (GOOD.replace("true", "false"), config(decoupled=False), "needs decoupled: true"),
        (GOOD.replace("model: here\n", ""), config(), "cannot be used"),
        ("model: here\n", config(), "cannot be used"),
        ("a: [", config(), "cannot be used"),
        ("text", config(), "cannot be used"),
        ("triton_config: 7\nmodel: x\n", config(), "cannot be used"),
    ],
)
def test_a_file_that_does_not_fit_the_configuration_is_refused(tmp_path, text, given, said):
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(pb.TritonModelException, match=said):
        llmapi.read_arguments(tmp_path / "model.yaml", given)


def test_a_server_under_mpirun_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    args = {"model_config": '{"parameters": {}}', "model_repository": "/r", "model_version": "1"}
    with pytest.raises(pb.TritonModelException, match="start one tritonserver"):
        llmapi.TritonPythonModel().initialize(args)
