"""Bad input ends in one line that names the file and the next step, its exit code, and no trace.

Most run the command line in this process; what it prints and returns is what the installed command
prints and returns (tests/cli/test_main.py holds the two together).
"""

import json
import shutil

import pytest

from builders import cli
from fakes.checkpoints import tiny_llama

POLICY = '[perplexity]\ncorpus = ["corpus.jsonl"]\nwindow = 64\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A release file that works, beside a tiny checkpoint."""
    tiny_llama(tmp_path / "model")
    texts = [
        json.dumps({"text": f"Return the value number {n} of the mapping."}) for n in range(40)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts) + "\n")
    documents = [json.dumps({"id": str(n), "text": "some text " * 99}) for n in range(4)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "release.toml").write_text(
        '[model]\npath = "model"\n[quantize.calibration]\nfiles = ["texts.jsonl"]\n'
        "samples = 4\nlength = 32\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, code, *arguments):
    """Run a command, expect its exit code, and return its one line on stderr."""
    assert cli.run([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == "" or "--json" in arguments
    return lines[0]


def spoil_absent(project):
    shutil.rmtree(project / "model")


def spoil_empty(project):
    shutil.rmtree(project / "model")
    (project / "model").mkdir()


def spoil_truncated(project):
    file = project / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def spoil_pickle(project):
    (project / "model" / "model.safetensors").rename(project / "model" / "pytorch_model.bin")


def spoil_tokenizer(project):
    (project / "model" / "tokenizer.json").unlink()


def spoil_key(project):
    file = project / "release.toml"
    file.write_text(file.read_text() + "[serve]\nconcurency = 4\n")


def spoil_line_17(project):
    file = project / "texts.jsonl"
    lines = file.read_text().splitlines()
    lines[16] = '{"text": "no end'
    file.write_text("\n".join(lines))


def spoil_policy(project):
    (project / "policy.toml").write_text(POLICY + "margn = 1\n")


def spoil_policy_gate(project):
    (project / "policy.toml").write_text(POLICY + "[perplexty]\n")


def spoil_store(project):
    (project / "store").write_text("a file")
    file = project / "release.toml"
    file.write_text(file.read_text() + '[release]\nstore = "store"\n')


@pytest.mark.parametrize(
    ("spoil", "code", "what", "next_step"),
    [
        (spoil_absent, 2, "model: no such checkpoint directory", ""),
        (spoil_empty, 2, "model: the checkpoint directory is empty", ""),
        (spoil_truncated, 2, "model.safetensors: truncated or damaged", "fetch this file again"),
        (spoil_pickle, 2, "pytorch_model.bin: pickled weights", "convert them"),
        (spoil_tokenizer, 2, "no tokenizer", "copy the tokenizer files"),
        (spoil_key, 2, "release.toml: unknown key serve.concurency", "did you mean concurrency?"),
        (spoil_line_17, 2, "texts.jsonl:17", ""),
        (spoil_policy, 2, "unknown key perplexity.margn", "did you mean margin?"),
        (spoil_policy_gate, 2, "unknown key perplexty", "did you mean perplexity?"),
    ],
)
def test_a_spoilt_project_is_refused_before_any_work(project, capsys, spoil, code, what, next_step):
    spoil(project)
    line = refused(capsys, code, "gate", "release.toml")
    assert what in line
    assert next_step in line
    assert not (project / ".enginesmith" / "store" / "records").exists()


@pytest.mark.parametrize(
    ("overrides", "code", "what"),
    [
        (["target.tier=t4"], 3, "cannot multiply"),
        (["target.tier=cpu", "target.runtime=trtllm"], 3, "needs a GPU tier"),
        (["target.tier=cpu", "target.runtime=vllm"], 3, "KV cache in fp8 on a CPU"),
        (["quantize.recipe=fp88"], 2, "did you mean fp8"),
        (["quantize.recipe=int4_rtn", "quantize.kv_cache=fp8_e5m2"], 3, "fp8_e5m2"),
        (["serve.context=99999"], 3, "more than the model's own"),
        (["serve.name=../etc"], 2, "cannot name a model"),
        (["release.channel=a/b/c"], 2, "not a channel's name"),
        (["model.path=42"], 2, "model.path must be a string"),
    ],
)
def test_what_cannot_work_is_refused_in_the_plan(project, capsys, overrides, code, what):
    settings = [word for override in overrides for word in ("--set", override)]
    assert what in refused(capsys, code, "plan", "release.toml", *settings)


def test_refusals_are_an_object_for_scripts(project, capsys):
    assert cli.run(["plan", "release.toml", "--json", "--set", "target.tier=t4"]) == 3
    refusals = json.loads(capsys.readouterr().out)["refusals"]
    assert refusals
    assert set(refusals[0]) == {"reason", "hint"}


def test_a_width_that_the_block_does_not_divide_is_refused_before_any_work(project, capsys):
    shutil.rmtree(project / "model")
    tiny_llama(project / "model", hidden=96, heads=3, kv_heads=1, intermediate=96)
    line = refused(capsys, 3, "plan", "release.toml", "--set", "quantize.recipe=int4_rtn")
    assert "128" in line


def test_a_store_that_is_a_file_is_refused(project, capsys):
    spoil_store(project)
    line = refused(capsys, 2, "quantize", "release.toml")
    assert "store: the store must be a directory" in line
    assert (project / "store").read_text() == "a file"


@pytest.mark.parametrize("command", ["show", "verify", "history", "rollback", "serve"])
def test_a_channel_that_does_not_exist_is_named(project, capsys, command):
    line = refused(capsys, 6, command, "cpu/stable")
    assert "cpu/stable" in line


@pytest.mark.parametrize("command", ["show", "verify", "serve"])
def test_a_digest_that_is_not_there_is_named(project, capsys, command):
    assert "no release begins with" in refused(capsys, 6, command, "sha256:" + "0" * 64)


def test_a_key_is_never_overwritten(project, capsys):
    assert cli.run(["keygen"]) == 0
    before = (project / ".enginesmith/keys/signing.pem").read_bytes()
    capsys.readouterr()
    assert "stays" in refused(capsys, 6, "keygen")
    assert (project / ".enginesmith/keys/signing.pem").read_bytes() == before


def test_a_public_key_that_is_none_is_named(project, capsys):
    (project / "pub.pem").write_text("no key")
    assert "pub.pem" in refused(capsys, 6, "verify", "cpu/stable", "--key", "pub.pem")


def test_an_output_folder_with_something_in_it_is_left_alone(project, capsys):
    (project / "out").mkdir()
    (project / "out" / "mine").write_text("keep")
    line = refused(capsys, 2, "quantize", "release.toml", "--out", "out")
    assert "out: not an empty directory" in line
    assert (project / "out" / "mine").read_text() == "keep"


def test_usage_mistakes_exit_2(project, capsys):
    assert cli.run(["release"]) == 2
    assert cli.run(["relase"]) == 2
    assert "did you mean release?" in capsys.readouterr().err
    assert cli.run(["plan", "nowhere.toml"]) == 2
    assert "nowhere.toml: no such file" in capsys.readouterr().err
