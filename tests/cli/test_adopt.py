"""An engine that others compiled is read, refused where it is not whole, and laid out to serve."""

import json

import pytest

from builders import cli
from builders.engine.trtllm.sidecar import Sidecar, altered, mismatches
from builders.render.lint import lint
from fakes.checkpoints import tiny_llama
from fakes.trtllm.checkpoints import write_checkpoint, write_engine
from fakes.trtllm.settings import host


@pytest.fixture
def engine(tmp_path):
    return write_engine(tmp_path / "engine", quant_algo="FP8", kv="FP8")


def run(*arguments):
    return cli.run(["adopt", *map(str, arguments)])


def test_it_says_what_the_engine_is(engine, capsys):
    assert run(engine, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["TensorRT-LLM"] == "1.2.1"
    assert (said["algorithm"], said["KV cache"], said["requests at once"]) == ("FP8", "fp8", 8)
    assert run(engine) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out


def test_it_lays_out_a_repository_that_serves_it(engine, tmp_path, capsys):
    tiny_llama(tmp_path / "model")
    code = run(
        engine, "--out", tmp_path / "repo", "--tier", "h100", "--tokenizer", tmp_path / "model",
        "--name", "theirs",
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert lint(tmp_path / "repo") == ()
    place = tmp_path / "repo/tensorrt_llm/1/engine"
    record = Sidecar.read(place)
    assert altered(record, place) == ()
    assert mismatches(record, host()) == ()
    assert (record.gpu.sm, record.made_on.tensorrt) == (90, "10.14.1.48")
    assert (tmp_path / "repo/theirs/config.pbtxt").is_file()
    assert (place / "config.json").stat().st_ino != (engine / "config.json").stat().st_ino
    assert not list(tmp_path.glob(".adopt-*"))


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (
            lambda e: (e / "rank0.engine").unlink(),
            2,
            "1 ranks are configured, and the files are of none",
        ),
        (lambda e: (e / "config.json").write_text("{"), 2, "not valid JSON"),
        (lambda e: (e / "config.json").unlink(), 2, "no such file"),
        (lambda e: (e / "rank0.engine").write_bytes(b""), 2, "empty"),
    ],
)
def test_an_engine_that_is_not_whole_is_refused(engine, capsys, spoil, code, said):
    spoil(engine)
    assert run(engine) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 2, "--out needs --tier and --tokenizer"),
        (["--tier", "h100", "--tokenizer", "/nowhere"], 2, "no config.json"),
        (["--tier", "h101", "--tokenizer", "MODEL"], 2, "unknown tier"),
        (["--tier", "cpu", "--tokenizer", "MODEL"], 3, "engines are for GPUs"),
        (["--tier", "h100", "--tokenizer", "MODEL", "--name", "../up"], 2, "cannot name a model"),
        (
            ["--tier", "h100", "--tokenizer", "MODEL", "--name", "ensemble"],
            2,
            "one of the repository",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused_and_leaves_nothing(
    engine, tmp_path, capsys, more, code, said
):
    tiny_llama(tmp_path / "model")
    more = [str(tmp_path / "model") if word == "MODEL" else word for word in more]
    assert run(engine, "--out", tmp_path / "repo", *more) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "repo").exists()
    assert not list(tmp_path.glob(".adopt-*"))


def test_a_checkpoint_is_read_and_not_laid_out(tmp_path, capsys):
    tiny_llama(tmp_path / "model")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    assert run(checkpoint) == 0
    assert "not compiled yet" in capsys.readouterr().out
    code = run(
        checkpoint, "--out", tmp_path / "repo", "--tier", "h100", "--tokenizer", tmp_path / "model"
    )
    assert code == 2
    assert "nothing to serve yet" in capsys.readouterr().err
