"""``latency`` and ``time`` from the command line: exit codes, evidence, and each fault by name."""

import json
import sys
import time
from contextlib import contextmanager

import pytest

from builders import cli, process
from builders.gate.evidence import Evidence
from builders.gate.speed import gpu
from fakes.checkpoints import tiny_llama
from fakes.nvml import Nvml
from fakes.openai import CUT, serving_aside, stream, whole, words

QUICK = ["pairs=4", "requests=6", "warm_up=1", "output_tokens=8", "client_share=1e6"]


@contextmanager
def metronome(tmp_path, ttft, itl):
    """A server with an exact schedule, in a process of its own."""
    log = tmp_path / f"metronome-{ttft}-{itl}"
    argv = (sys.executable, "-m", "builders.gate.speed.metronome", str(ttft), str(itl))
    child = process.start(argv, log=log)
    try:
        while "\n" not in log.read_text():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{log.read_text().splitlines()[0]}/v1"
    finally:
        process.stop(child)


def sets(*more):
    return [part for key in (*QUICK, *more) for part in ("--set", key)]


def run(capsys, *arguments):
    code = cli.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, [line for line in err.splitlines() if line.startswith("error: ")]


def test_a_slower_server_fails_and_leaves_its_evidence(capsys, tmp_path):
    with metronome(tmp_path, 0.01, 0.002) as fast, metronome(tmp_path, 0.05, 0.01) as slow:
        out = tmp_path / "evidence"
        code, printed, _ = run(
            capsys, "latency", fast, slow, "--model", "m", *sets(), "--json", "--out", out
        )
    assert code == 10
    found = json.loads(printed)
    assert found["outcome"] == "failed"
    assert {one["gate"] for one in found["verdicts"]} == {"latency.ttft_p50", "latency.itl_p50"}
    assert len(Evidence.read(out, gate="latency").samples) == 8


def test_a_faster_server_passes_by_the_policy(capsys, tmp_path):
    policy = tmp_path / "policy.toml"
    lines = "\n".join(QUICK)
    policy.write_text(f"[latency]\nttft_margin = 0.1\nitl_margin = 0.1\n{lines}\n")
    with metronome(tmp_path, 0.01, 0.002) as fast, metronome(tmp_path, 0.05, 0.01) as slow:
        code, printed, _ = run(
            capsys, "latency", slow, fast, "--model", "m", "--chat", "--policy", policy
        )
    assert code == 0
    assert "latency.ttft_p50" in printed
    assert "client ttft_p99 error [ms]" in printed


def test_one_server_is_measured_against_itself(capsys, tmp_path):
    with metronome(tmp_path, 0.02, 0.004) as url:
        code, printed, _ = run(capsys, "latency", url, "--model", "m", *sets("ttft_margin=5.0"))
    assert code in {0, 11}  # a busy machine makes any two times differ
    assert "latency.itl_p50" not in printed.splitlines()[1]


def broken_in_pair_5():
    """Answers until the candidate's second request of pair 5, then dies."""
    asked = []

    def reply(path, body):
        asked.append(body)
        if len(asked) > 5 + 7 + 4 * 7 + 2:  # coherence, batch sizes, four pairs of seven
            return (CUT,)
        return stream(words([" a"] * body["max_tokens"], finish="length", usage="final"))

    return reply


def good(path, body):
    prompt = len(body["prompt"].split())
    return stream(words([" a"] * body["max_tokens"], finish="length", prompt=prompt))


def truncating(path, body):
    prompt = min(len(body["prompt"].split()), 10)
    return stream(words([" a"] * body["max_tokens"], finish="length", prompt=prompt))


def short(path, body):
    return stream(words([" a"] * max(body["max_tokens"] - 1, 1)))


def answering(reply):
    return lambda path, body: reply


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (answering(whole("200 OK", {"error": {"message": "out of memory"}})), "out of memory"),
        (answering(whole("400 Bad Request", {"message": "chat template"})), "chat template"),
        (answering(stream([])), "the answer ended before its last piece"),
        (answering((CUT,)), "no answer"),
        (answering(stream(words([""], finish="length"))), "answers a prompt with nothing"),
        (truncating, "the candidate reads 10 tokens of a prompt whose halves"),
        (short, "came (stop)"),
        (broken_in_pair_5(), "pair 5, candidate, request"),
    ],
)
def test_a_candidate_that_cannot_be_measured_is_named(capsys, tmp_path, reply, complaint):
    out = tmp_path / "evidence"
    with serving_aside(good) as fine, serving_aside(reply) as bad:
        code, printed, errors = run(
            capsys,
            *("latency", fine.url, bad.url, "--model", "m", "--out", out),
            *sets("pairs=6"),
        )
    assert code == 5
    assert printed == ""
    assert len(errors) == 1
    assert complaint in errors[0]
    assert not list(out.iterdir())


def test_a_gpu_that_throttled_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({"clock": 1500, "reasons": 0x40}))
    monkeypatch.setattr(gpu, "_PERIOD_SECONDS", 0.005)
    with metronome(tmp_path, 0.02, 0.004) as url:
        code, _, errors = run(capsys, "latency", url, "--model", "m", *sets())
    assert code == 5
    assert "Fake 100 throttled: hardware thermal slowdown" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("127.0.0.1:1",), "127.0.0.1:1 is no URL of a server"),
        (("ftp://host",), "ftp://host is no URL of a server"),
        (("http://127.0.0.1:1/v1", "--set", "pairs=x"), "--set: latency.pairs must be a whole"),
        (("http://127.0.0.1:1/v1", "--set", "pairs"), "--set pairs: not of the form"),
        (("http://127.0.0.1:1/v1", "--set", "pears=4"), "unknown key latency.pears"),
        (("http://127.0.0.1:1/v1", "--policy", "p.toml", "--set", "pairs=4"), "either --policy"),
        (("http://127.0.0.1:1/v1", "--policy", "none.toml"), "none.toml: no such file"),
        (("http://127.0.0.1:1/v1", "--policy", "p.toml"), "p.toml: has no table latency"),
        (("http://127.0.0.1:1/v1", "--out", "full"), "full is not an empty folder"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused(
    capsys, tmp_path, monkeypatch, arguments, complaint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.toml").write_text("[prompts]\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    code, _, errors = run(capsys, "latency", *arguments, "--model", "m")
    assert code == 2
    assert complaint in errors[0]


@pytest.mark.slow
def test_a_checkpoint_is_timed(capsys, tmp_path):
    tiny_llama(tmp_path / "model")
    arguments = ("--prompt-tokens", 16, "--output-tokens", 8, "--repeats", 3, "--device", "cpu")
    code, printed, _ = run(capsys, "time", tmp_path / "model", *arguments, "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["device"] == "cpu"
    assert [len(lap["gaps_s"]) for lap in found["laps"]] == [7, 7, 7]
    measures = found["measures"]
    assert measures.keys() == {"TTFT", "ITL", "prefill", "decode", "request"}
    assert all(one["low"] <= one["value"] <= one["high"] for one in measures.values())
    lap = found["laps"][0]
    assert measures["prefill"]["value"] == pytest.approx(
        sum(16 / lap["first_s"] for lap in found["laps"]) / 3
    )
    assert lap["first_s"] > 0
    code, printed, _ = run(capsys, "time", tmp_path / "model", *arguments)
    assert "tokens/s" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--prompt-tokens", 9999), 2, "exceed the engine's context of 512"),
        (("--device", "gpu"), 2, "no device 'gpu'"),
        (("--device", "meta"), 2, "does not run on meta"),
        (("--device", "cuda:7"), 4, "this machine has no device cuda:7"),
    ],
)
def test_what_cannot_be_timed_is_refused(capsys, tmp_path, arguments, code, complaint):
    tiny_llama(tmp_path / "model")
    found, _, errors = run(capsys, "time", tmp_path / "model", *arguments)
    assert found == code
    assert complaint in errors[0]


def test_what_is_no_checkpoint_is_refused(capsys, tmp_path):
    code, _, errors = run(capsys, "time", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in errors[0]
