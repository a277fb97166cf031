"""Two running servers are judged one against the other, as a release's two sides are.

The servers are stand-ins that compute: the demo model in the embedded runtime behind real HTTP.
"""

import json
import math
import shutil
import subprocess
import sys

import pytest

from builders import cli
from builders.engine import EngineSettings, build
from builders.engine.embedded.model import Embedded
from builders.formats import Format
from builders.gate.evidence import Evidence
from builders.gate.scoring import accuracy, perplexity
from builders.parse import Table
from builders.progress import silent
from builders.serve import scoring
from builders.serve.completions import Completions
from fakes.checkpoints import DEMO
from fakes.openai import serving_aside, stream, whole, words
from fakes.scorers import Likely, Scores
from fakes.scoring_server import ScoringServer

SCORING = """
name = "servers"
[perplexity]
corpus = ["corpus.jsonl"]
window = 64
windows = 24
controls = 6
margin = 0.3
[early]
confidence = 1
"""
PROMPTS = """
[prompts]
file = "prompts.jsonl"
margin = 0.5
"""
LATENCY = """
[latency]
pairs = 4
requests = 4
warm_up = 1
output_tokens = 6
concurrency = 1
client_share = 1e6
ttft_margin = 3.0
itl_margin = 3.0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    build("embedded", DEMO, EngineSettings(context=512, dtype=Format.FP32), out, silent)
    with Embedded.load(out, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    program = DEMO.parent / "make_data.py"
    subprocess.run([sys.executable, program, made], check=True, capture_output=True)
    return made


class Worse:
    """The same model with so many nats less for everything it says."""

    def __init__(self, model, nats):
        self._model, self._nats = model, nats
        for name in ("tokenize", "detokenize", "generate", "context"):
            setattr(self, name, getattr(model, name))

    def score(self, rows):
        return [Scores(one.logprobs - self._nats, one.greedy) for one in self._model.score(rows)]

    def distributions(self, rows, top):
        found = self._model.distributions(rows, top)
        return [Likely(one.tokens, one.logprobs - self._nats) for one in found]


@pytest.fixture
def folder(tmp_path, demo_data):
    for name in ("prompts.jsonl", "tasks"):
        place = DEMO.parent / name
        (shutil.copytree if place.is_dir() else shutil.copyfile)(place, tmp_path / name)
    shutil.copytree(demo_data, tmp_path / "data")
    shutil.copyfile(demo_data / "corpus.jsonl", tmp_path / "corpus.jsonl")
    (tmp_path / "policy.toml").write_text(SCORING)
    return tmp_path


def run(capsys, *arguments):
    code = cli.run(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def common(folder, *more):
    return ("--policy", folder / "policy.toml", "--tokenizer", DEMO, *more)


def test_a_server_against_itself_passes_and_leaves_evidence_that_judges_again(
    model, folder, capsys
):
    out = folder / "out"
    with serving_aside(ScoringServer(model)) as server:
        place = server.url.removesuffix("/v1")
        code, said, _ = run(capsys, place, place, *common(folder, "--json", "--out", out))
    found = json.loads(said)
    assert (code, found["outcome"]) == (0, "passed")
    assert found["gates"][0]["worse_by"] == pytest.approx(0, abs=1e-9)
    parts = {path.name for path in (out / "perplexity").iterdir()}
    assert parts == {"baseline", "candidate", "again", "damaged"}
    assert json.loads((out / "servers.json").read_text()) == {
        side: {"url": server.url, "model": "demo"} for side in ("baseline", "candidate")
    }
    assert cli.run(["judge", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["recorded"] == "reproduced"
    assert again["gates"] == found["gates"]


def test_a_worse_server_fails_with_gate_s_exit_code(model, folder, capsys):
    with (
        serving_aside(ScoringServer(model)) as good,
        serving_aside(ScoringServer(Worse(model, 0.6), model="worse")) as bad,
    ):
        more = ("--json", "--model", "demo", "--model", "worse")
        code, said, _ = run(capsys, good.url, bad.url, *common(folder, *more))
    assert code == 10
    (gate,) = json.loads(said)["gates"]
    assert gate["worse_by"] == pytest.approx(math.expm1(0.6), abs=1e-3)


def test_an_early_look_ends_it_and_the_rest_is_not_measured(model, folder, capsys):
    policy = (folder / "policy.toml").read_text().replace("confidence = 1\n", "confidence = 0.99\n")
    (folder / "policy.toml").write_text(policy)
    out = folder / "out"
    with (
        serving_aside(ScoringServer(model)) as good,
        serving_aside(ScoringServer(Worse(model, 3.0))) as bad,
    ):
        code, said, _ = run(capsys, good.url, bad.url, *common(folder, "--json", "--out", out))
    assert code == 10
    assert "early look" in json.dumps(json.loads(said))
    assert not (out / "perplexity" / "candidate").exists()


def test_a_server_that_does_not_look_is_void_not_a_pass(model, folder, capsys):
    class Blind(Worse):
        def score(self, rows):
            return [Scores(0 * one.logprobs - 2.0, one.greedy) for one in self._model.score(rows)]

    with serving_aside(ScoringServer(Blind(model, 0.0))) as blind:
        code, _, err = run(capsys, blind.url, blind.url, *common(folder))
    assert code == 5
    assert "void" in err or "another is likelier" in err


def spoken(path, body):
    """An answer of six tokens, one each 2 ms, to whatever is asked."""
    if path.endswith("/models"):
        return whole("200 OK", {"data": [{"id": "demo"}]})
    pieces = words([" word"] * body["max_tokens"], finish="length")
    return stream([part for piece in pieces for part in (0.002, piece)])


@pytest.mark.slow
def test_latency_is_measured_in_turns_with_its_controls(folder, capsys):
    (folder / "policy.toml").write_text('name = "latency"\n' + LATENCY)
    out = folder / "out"
    with serving_aside(spoken) as server:
        more = ("--policy", folder / "policy.toml", "--json", "--out", out)
        code, said, err = run(capsys, server.url, server.url, *more)
    assert code == 0, err
    gates = {gate["gate"] for gate in json.loads(said)["gates"]}
    assert gates == {"latency.ttft_p50", "latency.itl_p50"}
    kept = {path.parent.relative_to(out).as_posix() for path in out.rglob("samples.jsonl")}
    assert kept == {"latency", "latency/again", "latency/damaged"}


@pytest.mark.slow
def test_prompts_are_asked_over_the_same_interface(model, folder, capsys):
    (folder / "policy.toml").write_text(f'name = "prompts"\n{PROMPTS}')
    with serving_aside(ScoringServer(model)) as server:
        more = ("--policy", folder / "policy.toml", "--json")
        code, said, err = run(capsys, server.url, server.url, *more)
    assert code == 0, err
    assert [gate["gate"] for gate in json.loads(said)["gates"]] == ["prompts"]


def test_accuracy_through_a_server_is_that_of_the_embedded_runtime(model, folder):
    settings = accuracy.parse(
        Table({"task": "tasks/continuation.yaml", "limit": 40}, place="p"),
        beside=folder,
        confidence=0.95,
    )
    found = {}
    with serving_aside(ScoringServer(model)) as server:
        asked = Completions(url=server.url)
        with scoring.scorer(asked, DEMO) as served:
            for name, scorer in (("served", served), ("embedded", model)):
                (folder / name).mkdir()
                accuracy.measure(scorer, settings, folder / name, silent)
                found[name] = Evidence.read(folder / name, gate="accuracy").samples
    for ours, theirs in zip(found["served"], found["embedded"], strict=True):
        assert ours["loglikelihoods"] == pytest.approx(theirs["loglikelihoods"], abs=1e-3)
        assert [ours[key] for key in ("unit", "choice", "right", "greedy")] == [
            theirs[key] for key in ("unit", "choice", "right", "greedy")
        ]


def test_perplexity_through_a_server_is_that_of_the_embedded_runtime(model, folder):
    data = {"corpus": ["corpus.jsonl"], "window": 64, "windows": 8, "controls": 4}
    settings = perplexity.parse(Table(data, place="p"), beside=folder, confidence=0.95)
    with serving_aside(ScoringServer(model)) as server:
        asked = Completions(url=server.url)
        with scoring.scorer(asked, DEMO) as served:
            for name, scorer in (("served", served), ("embedded", model)):
                (folder / name).mkdir()
                perplexity.measure(scorer, settings, folder / name, silent)
    one, other = (
        Evidence.read(folder / name, gate="perplexity").samples for name in ("served", "embedded")
    )
    for ours, theirs in zip(one, other, strict=True):
        assert ours["nll"] == pytest.approx(theirs["nll"], abs=1e-2)
        assert (ours["row"], ours["greedy"]) == (theirs["row"], theirs["greedy"])
        assert ours.keys() == theirs.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http://127.0.0.1:9", "somewhere", "--policy", "p.toml"), "two URLs and a policy"),
        (("http://127.0.0.1:9", "http://127.0.0.1:9"), "two URLs and a policy"),
        (("a", "b", "--out", "o"), "are for servers"),
        (("a", "b", "--key-variable", "K"), "are for servers"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, arguments, said):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert said in err


def test_a_server_that_is_not_up_is_named_before_any_work(folder, capsys):
    code, _, err = run(capsys, "http://127.0.0.1:9", "http://127.0.0.1:9", *common(folder))
    assert code == 4
    assert "http://127.0.0.1:9/v1: connection refused" in err


def test_a_tokenizer_is_asked_for_where_texts_are_scored(model, folder, capsys):
    with serving_aside(ScoringServer(model)) as server:
        code, _, err = run(capsys, server.url, server.url, "--policy", folder / "policy.toml")
    assert code == 2
    assert "--tokenizer DIR" in err


def test_a_key_is_taken_from_the_environment_and_written_nowhere(
    model, folder, capsys, monkeypatch
):
    monkeypatch.setenv("SECRET_OF_MINE", "s3cret")
    out = folder / "out"
    with serving_aside(ScoringServer(model)) as server:
        more = ("--key-variable", "SECRET_OF_MINE", "--out", out)
        code, said, err = run(capsys, server.url, server.url, *common(folder, *more))
        assert all("authorization: bearer s3cret" in head.lower() for head in server.heads)
    assert code == 0
    written = [path.read_text() for path in out.rglob("*") if path.is_file()]
    assert not any("s3cret" in text for text in (*written, said, err))


def test_a_key_in_a_url_or_an_empty_variable_is_refused(folder, capsys, monkeypatch):
    code, _, err = run(capsys, "http://me:pw@h:1", "http://h:1", *common(folder))
    assert code == 2
    assert "would end up in the evidence" in err
    monkeypatch.delenv("NO_SUCH", raising=False)
    code, _, err = run(
        capsys, "http://h:1", "http://h:1", *common(folder, "--key-variable", "NO_SUCH")
    )
    assert code == 2
    assert "NO_SUCH is empty" in err


def test_a_folder_that_holds_something_is_not_written_into(model, folder, capsys):
    with serving_aside(ScoringServer(model)) as server:
        code, _, err = run(capsys, server.url, server.url, *common(folder, "--out", folder))
    assert code == 2
    assert "is not an empty folder" in err
