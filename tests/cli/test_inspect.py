"""Inspect and import say what a checkpoint is, what is wrong with it, and exit by that."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from builders.cli import COMMANDS, import_, inspect
from builders.errors import UsageError
from fakes.quantized import LAYER, sound


@pytest.fixture
def written(tmp_path):
    """Write a sound checkpoint after a change, and return where."""

    def make(name, change=lambda fake: None):
        fake = sound(name)
        change(fake)
        return fake.write(tmp_path / name.replace(" ", "-"))

    return make


def spoil(fake):
    fake.tensors[f"{LAYER}.weight_scale"][1][...] = np.nan


def run(module, *arguments, code=0):
    done = CliRunner().invoke(module.command, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def test_a_sound_checkpoint_is_described_and_exits_0(written):
    text = run(inspect, written("modelopt fp8"), "--base", written("unquantized"))
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["scheme"].split() == ["scheme", "W8A8KV8"]
    assert lines["left alone"].endswith("lm_head, model.embed_tokens")
    assert "8.003 bits a quantized weight" in lines["size"]
    assert any(line.split()[:3] == ["q_proj", "FP8", "2"] for line in text.splitlines())
    assert text.splitlines()[-1] == "sound: nothing found"


def test_a_finding_that_stops_exits_10_and_names_tensor_and_remedy(written):
    text = run(inspect, written("modelopt fp8", spoil), code=10)
    line = next(line for line in text.splitlines() if line.startswith("stop "))
    assert f"{LAYER}.weight_scale holds NaN; quantize again" in line
    assert text.splitlines()[-1] == "stop: 1 finding that must be mended, 0 warnings"


def test_a_warning_is_told_and_exits_0(written):
    path = written("unquantized", lambda fake: fake.config.update(auto_map={"A": "m.A"}))
    text = run(inspect, path)
    assert "warn  config.json names code" in text
    assert text.splitlines()[-1] == "sound: 1 warning"


def test_alike_findings_share_a_line(written):
    def change(fake):
        for name in [name for name in fake.tensors if name.endswith("input_scale")]:
            del fake.tensors[name]

    text = run(inspect, written("modelopt fp8", change), code=10)
    assert len([line for line in text.splitlines() if line.startswith("stop ")]) == 1
    assert "(and 13 more) is missing" in text


def test_the_json_is_one_object(written):
    said = json.loads(run(inspect, written("modelopt fp8", spoil), "--json", code=10))
    assert said["sound"] is False
    assert said["recognized"]["scheme"] == "W8A8KV8"
    assert said["findings"] == [
        {
            "rule": "scale-nan",
            "where": f"{LAYER}.weight_scale",
            "what": "holds NaN",
            "hint": said["findings"][0]["hint"],
            "severity": "stop",
        }
    ]


def test_scales_that_were_only_sampled_are_told(written, monkeypatch):
    from builders import autopsy

    def change(fake):
        wide = np.full((4096, 4096), 0x30, np.uint8)
        fake.tensors[f"{LAYER}.weight_scale"] = ("F8_E4M3", wide)

    path = written("modelopt nvfp4", change)
    monkeypatch.setattr(autopsy, "LIMIT", 1 << 20)
    assert "of it looked at (--every-scale reads all)" in run(inspect, path, code=10)
    assert "all read" in run(inspect, path, "--every-scale", code=10)


def test_an_import_prints_a_stanza_that_a_release_file_takes(written):
    path = written("gptq")
    text = run(import_, path)
    assert "W4A16" in text
    stanza = tomllib.loads(text[text.index("# W4A16, gptq W4A16_GPTQ") :])
    assert stanza == {
        "model": {"path": str(path)},
        "quantize": {"recipe": "none"},
        "target": {"runtime": "vllm"},
    }


def test_an_import_of_an_unquantized_checkpoint_takes_the_safe_recipe(written):
    said = json.loads(run(import_, written("unquantized"), "--json"))
    stanza = tomllib.loads(said["release_toml"])
    assert stanza["quantize"] == {"recipe": "fp8"}
    assert stanza["target"] == {"runtime": "embedded"}


def test_an_import_that_is_not_sound_prints_no_stanza(written):
    path = written("modelopt fp8", spoil)
    assert "[model]" not in run(import_, path, code=10)
    assert json.loads(run(import_, path, "--json", code=10))["release_toml"] == ""


def test_an_import_from_the_hub_is_named_by_its_commit(written, monkeypatch):
    from builders import hub

    path, revision = written("awq"), "0123456789" * 4
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda *where: asked.append(where) or path)
    said = json.loads(run(import_, f"org/name@{revision}", "--json"))
    assert asked == [("org/name", revision)]
    stanza = tomllib.loads(said["release_toml"])
    assert stanza["model"] == {"hub_id": "org/name", "revision": revision}


@pytest.mark.parametrize("source", ["nowhere", "org/name", "org/name@main", "name@" + "0" * 40])
def test_what_is_neither_a_directory_nor_a_commit_is_a_usage_error(source):
    with pytest.raises(UsageError, match="no such checkpoint directory") as caught:
        run(import_, source)
    assert "org/name@" in caught.value.hint


def test_an_unknown_method_is_refused_through_the_installed_command(written):
    path = written("gptq", lambda fake: fake.declare(quant_method="aqlm"))
    program = Path(sys.executable).parent / "enginesmith"
    for name in ("inspect", "import"):
        assert name in COMMANDS
        done = subprocess.run([program, name, path], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "quantized by aqlm, which is not known here; known: modelopt" in done.stderr
        assert "Traceback" not in done.stderr
