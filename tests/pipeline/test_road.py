"""The main road, through the installed command: real ModelOpt, real Triton, real gates.

Proves the promises that people rely on: one command ends in a promoted, serving release; nothing is
done twice; what does not pass moves no channel; a killed run goes on where it was.
"""

import asyncio
import json
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from builders import engine, render, serve
from builders.bundle import Tree
from builders.engine import EngineSettings
from builders.formats import Format
from builders.progress import silent
from builders.serve.grpc import TritonEndpoint

pytestmark = pytest.mark.slow
GATES = {"perplexity", "accuracy", "prompts", "latency.ttft_p50", "latency.itl_p50"}


def test_one_command_ends_in_a_promoted_release(first):
    assert list(first) == [
        "release", "channel", "promoted", "outcome", "stages", "gates", "bundle",
    ]  # fmt: skip
    assert first["promoted"] is True
    assert first["outcome"] == "passed"
    assert first["channel"] == "cpu/stable"
    assert first["release"].startswith("sha256:")
    assert {gate["gate"] for gate in first["gates"]} >= GATES
    assert all(gate["low"] <= gate["worse_by"] <= gate["high"] for gate in first["gates"])
    assert not any(stage["cached"] for stage in first["stages"])


def test_the_bundle_holds_what_a_stranger_needs(first):
    bundle = Path(first["bundle"])
    assert (bundle / "model_repository" / "demo" / "config.pbtxt").is_file()
    assert (bundle / "policy.toml").is_file()
    assert (bundle / "plan" / "plan.json").is_file()
    assert (bundle / "evidence" / "perplexity" / "baseline" / "samples.jsonl").is_file()
    page = (bundle / "report" / "report.html").read_text()
    assert "<title>GO: demo" in page


def test_a_release_leaves_the_users_own_model_alone(workshop, first):
    for file in (workshop.folder / "demo" / "model").iterdir():
        assert file.stat().st_nlink == 1
        assert file.stat().st_mode & 0o200


def test_a_second_run_does_no_work_and_names_the_same_release(workshop, first):
    again = workshop.json("release", "demo/release.toml")
    assert all(stage["cached"] for stage in again["stages"])
    assert again["release"] == first["release"]
    assert len(workshop.json("history", "cpu/stable")) == 1


def test_a_dry_run_says_what_would_run_and_why(workshop):
    out, _ = workshop.run("release", "demo/release.toml", "--dry-run")
    assert "would run" not in out
    out, _ = workshop.run(
        "release", "demo/release.toml", "--dry-run", "--set", "quantize.calibration.samples=4"
    )
    assert "would run (calibration" in out


def test_the_cache_tells_why(workshop):
    told = workshop.json("cache", "why", "demo/release.toml")["stages"]
    assert set(told.values()) == {"done before"}
    changed = ("--set", "serve.concurrency=3")
    told = workshop.json("cache", "why", "demo/release.toml", *changed)["stages"]
    assert told["quantize"] == "done before"
    assert "settings.concurrency changed: 4 → 3" in told["build"]


def test_what_was_promoted_verifies_and_shows_its_verdicts(workshop, first):
    verified = workshop.json("verify", "cpu/stable")
    assert verified["release"] == first["release"]
    shown = workshop.json("show", first["release"])
    assert shown["outcome"] == "passed"
    assert shown["about"]["recipe"] == "fp8 (W8A8KV8)"
    assert "perplexity" in workshop.run("show", "cpu/stable")[0]


def test_the_promoted_release_serves_a_stream_and_a_curl(workshop):
    server = workshop.start("serve", "cpu/stable", "--http-port", "0", "--grpc-port", "0")
    try:
        lines = iter(server.stdout.readline, "")
        curl = next(line for line in lines if "curl" in line)
        url = next(word for word in curl.split() if word.startswith("http"))
        body = json.dumps({"text_input": "Return the", "max_tokens": 6}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            answered = json.load(answer)
        client = next(line for line in lines if "InferenceServerClient" in line)
        streamed = _stream(client.split('"')[1], "demo")
        assert streamed == answered["text_output"]
    finally:
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=60)
    assert server.returncode == 130
    assert "Traceback" not in err


def test_what_triton_serves_is_what_the_gates_score(first, tmp_path):
    """Same greedy tokens, same log-probabilities, of the quantized model itself.

    In float32: bfloat16 rounds otherwise in batches of other shapes, FP8 then makes more of it.
    """
    engine_of = Path(first["bundle"]) / "model_repository" / "demo" / "1" / "engine"
    settings = EngineSettings(context=1024, concurrency=2, kv_cache=Format.FP8, dtype=Format.FP32)
    (tmp_path / "engine").mkdir()
    engine.build("embedded", engine_of / "checkpoint", settings, tmp_path / "engine", silent)
    digest = Tree.of(tmp_path / "engine").digest
    context = render.Context(name="demo", context=1024, concurrency=2, engine_digest=digest)
    render.render("embedded", context, tmp_path / "engine", tmp_path / "repository")
    prompts = ("Return the", "List of environment", "Create a mask from the two sequences")
    with serve.tritonserver(tmp_path / "repository", log=tmp_path / "triton.log") as running:
        served = {prompt: _answered(running.grpc_url, prompt) for prompt in prompts}
    with engine.scorer(tmp_path / "engine") as scorer:
        for prompt, (ids, said) in served.items():
            (scores,) = scorer.score([[*scorer.tokenize(prompt), *ids]])
            assert len(ids) == 24
            assert all(scores.greedy[-24:])
            assert scores.logprobs[-24:] == pytest.approx(said, abs=1e-3)


def _answered(address, prompt):
    async def ask():
        async with TritonEndpoint(address, "demo") as endpoint:
            return [c async for c in endpoint.stream(prompt, max_tokens=24, ignore_eos=True)]

    chunks = asyncio.run(ask())
    return [i for c in chunks for i in c.token_ids], [v for c in chunks for v in c.logprobs]


def test_a_port_in_use_is_named(workshop):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _, err = workshop.run("serve", "cpu/stable", "--http-port", port, code=4)
    assert port in err


def _stream(address, model):
    async def ask():
        async with TritonEndpoint(address, model) as endpoint:
            return [chunk.text async for chunk in endpoint.stream("Return the", max_tokens=6)]

    return "".join(asyncio.run(ask()))


def test_one_stage_leaves_its_result_in_a_folder_of_ones_choice(workshop, tmp_path):
    workshop.run("quantize", "demo/release.toml", "--out", str(tmp_path / "quantized"))
    names = {path.name for path in (tmp_path / "quantized").iterdir()}
    assert {"hf_quant_config.json", "model.safetensors", "tokenizer.json"} <= names
    workshop.run("render", "demo/release.toml", "--out", str(tmp_path / "repository"))
    assert (tmp_path / "repository" / "demo" / "config.pbtxt").is_file()
    _, err = workshop.run(
        "build", "demo/release.toml", "--out", str(tmp_path / "quantized"), code=2
    )
    assert "not an empty directory" in err


def test_a_checkpoint_that_came_quantized_is_judged_against_its_original(workshop):
    workshop.run("quantize", "demo/release.toml", "--out", "demo/quantized")
    text = (workshop.folder / "demo" / "release.toml").read_text()
    (workshop.folder / "demo" / "imported.toml").write_text(
        text.replace('path = "model"', 'path = "quantized"\n[baseline]\npath = "model"')
        .replace('recipe = "fp8"', 'recipe = "none"')
        .replace("cpu/stable", "cpu/imported")
    )
    released = workshop.json("release", "demo/imported.toml")
    assert released["promoted"] is True
    ran = {stage["name"] for stage in released["stages"] if not stage["cached"]}
    assert "quantize" not in {stage["name"] for stage in released["stages"]}
    assert not any(name.startswith("perplexity/candidate") for name in ran)  # the same engine
    _, err = workshop.run("quantize", "demo/imported.toml", code=2)
    assert "nothing left to quantize" in err


def test_a_changed_margin_judges_anew_without_measuring(workshop):
    policy = workshop.folder / "demo" / "policy.toml"
    kept = policy.read_text()
    policy.write_text(kept.replace("margin = 0.5", "margin = 0.01", 1))
    try:
        judged = workshop.json("gate", "demo/release.toml", code=11)
    finally:
        policy.write_text(kept)
    ran = {stage["name"] for stage in judged["stages"] if not stage["cached"]}
    assert ran == {"judge", "report"}
    assert judged["outcome"] == "inconclusive"
    assert judged["release"] is None


def test_a_recipe_that_goes_too_far_moves_no_channel(workshop):
    policy = workshop.folder / "demo" / "policy.toml"
    kept = policy.read_text()
    policy.write_text(kept.replace("windows = 12\nmargin = 0.5", "windows = 12\nmargin = 0.05"))
    try:
        judged = workshop.json("release", "demo/too-far.toml", code=10)
    finally:
        policy.write_text(kept)
    assert judged["outcome"] == "failed"
    assert judged["promoted"] is False
    assert judged["release"] is None
    assert len(workshop.json("history", "cpu/stable")) == 1
    assert "NO-GO" in (Path(judged["bundle"]) / "report.html").read_text()


def test_rolling_back_returns_to_the_release_before(workshop, first):
    second = workshop.json("release", "demo/release.toml", "--set", "serve.concurrency=2")
    assert second["release"] != first["release"]
    shown = workshop.json("show", second["release"])
    tried = [attempt["outcome"] for attempt in shown["attempts"]]
    assert tried == ["passed"] * len(tried)
    assert shown["about"]["candidates tried"] == f"{len(tried)} of 1"
    assert len(workshop.json("show", first["release"])["attempts"]) == 1
    assert "candidate 2 against" in (Path(second["bundle"]) / "report" / "report.html").read_text()
    back = workshop.json("rollback", "cpu/stable", "--reason", "test")
    assert back["digest"] == first["release"]
    assert [entry["action"] for entry in workshop.json("history", "cpu/stable")] == [
        "rollback", "promote", "promote",
    ]  # fmt: skip
    _, err = workshop.run("rollback", "cpu/stable", code=6)
    assert "nothing earlier" in err


def test_a_killed_run_goes_on_where_it_was_and_ends_like_an_undisturbed_one(fresh, first):
    process = fresh.start("release", "demo/release.toml")
    for line in process.stderr:
        if line.startswith("perplexity/candidate …"):
            time.sleep(0.5)
            process.kill()
            break
    process.wait()
    process.stderr.close()
    process.stdout.close()
    finished = fresh.json("release", "demo/release.toml")
    assert finished["promoted"] is True
    stages = {stage["name"]: stage for stage in finished["stages"]}
    for name in ("quantize", "build", "perplexity/baseline"):
        assert stages[name]["cached"], name
    undisturbed = {stage["name"]: stage["key"] for stage in first["stages"]}
    for name in (
        "quantize",
        "build",
        "build/baseline",
        "render",
        "render/baseline",
        "accuracy/candidate",
    ):
        assert stages[name]["key"] == undisturbed[name], name  # keys hold the digests of inputs
    repositories = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (Path(run["bundle"]) / "model_repository" for run in (first, finished))
    ]
    assert repositories[0] == repositories[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_leaves_nothing_half_written(fresh, number, code):
    process = fresh.start("quantize", "demo/release.toml")
    for line in process.stderr:
        if "load the quantizer" in line:
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    store = fresh.folder / ".enginesmith" / "store"
    assert not any((store / "records").glob("*"))
    assert not any((store / "tmp").glob("*/out"))


def test_a_tampered_release_is_refused_by_verify_and_serve(fresh, workshop, first):
    import shutil

    shutil.copytree(workshop.folder / ".enginesmith", fresh.folder / ".enginesmith")
    digest = first["release"].removeprefix("sha256:")
    config = (
        fresh.folder / ".enginesmith/store/releases" / digest / "model_repository/demo/config.pbtxt"
    )
    config.chmod(0o644)
    text = config.read_text()
    config.unlink()
    config.write_text(text + "\n# harmless?")
    for command in ("verify", "serve", "show"):
        _, err = fresh.run(command, first["release"], code=6)
        assert "config.pbtxt was changed" in err
