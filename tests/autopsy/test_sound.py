"""A sound checkpoint of any method has no finding, alone or beside its base."""

import json

import numpy as np
import pytest

from builders.autopsy import RULES, inspect
from builders.checkpoint import Checkpoint
from fakes.quantized import SOUND, mixture, sound

FLAT = {"declaration-beside-missing"}  # config.json alone: some readers miss the KV cache's format

MIXTURES = ("mxfp4", "experts")  # which have another base


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_checkpoint_has_no_finding(tmp_path, name):
    inspection = inspect(sound(name).write(tmp_path / "m"))
    assert {f.rule for f in inspection.findings} == (FLAT if name == "modelopt flat" else set())
    assert inspection.sound


@pytest.mark.parametrize("name", [name for name in SOUND if not name.endswith(MIXTURES)])
def test_a_sound_checkpoint_agrees_with_its_base(tmp_path, base, name):
    inspection = inspect(sound(name).write(tmp_path / "m"), base=base)
    assert {f.rule for f in inspection.findings} == (FLAT if name == "modelopt flat" else set())


@pytest.mark.parametrize("name", [name for name in SOUND if name != "unquantized"])
def test_every_quantized_layer_takes_the_bits_of_its_format(tmp_path, name):
    size = inspect(sound(name).write(tmp_path / "m")).size
    assert size.quantized_bytes == size.exact_bytes > 0
    assert size.scale_bytes == size.scale_bytes_read > 0


def test_layers_are_counted_by_kind_and_format(tmp_path):
    counts = inspect(sound("modelopt mixed").write(tmp_path / "m")).counts
    told = {(one.layer, one.format): (one.count, one.parameters) for one in counts}
    assert told["q_proj", "FP8"] == (2, 2 * 128 * 128)
    assert told["down_proj", "NVFP4"] == (2, 2 * 128 * 256)
    assert told["norm", "BF16"] == (5, 5 * 128)
    assert told["lm_head", "BF16"] == (1, 4096 * 128)


def test_stacked_experts_are_counted_by_their_projection(tmp_path):
    counts = inspect(sound("mxfp4").write(tmp_path / "m")).counts
    told = {(one.layer, one.format): one.parameters for one in counts}
    assert told["experts.gate_up_proj", "MXFP4"] == 2 * 4 * 512 * 128


@pytest.mark.parametrize("name", [name for name in SOUND if name.endswith("experts")])
def test_stacked_experts_agree_with_their_base(tmp_path, name):
    original = mixture()
    if name == "fp8 block experts":  # its models stack (experts, out, in)
        for full, (dtype, data) in original.tensors.items():
            turned = np.ascontiguousarray(data.swapaxes(-1, -2)) if "experts" in full else data
            original.tensors[full] = (dtype, turned)
    base = Checkpoint.open(original.write(tmp_path / "base"))
    assert inspect(sound(name).write(tmp_path / "m"), base=base).findings == ()


def test_stacked_experts_that_nobody_quantized_are_sound(tmp_path):
    found = inspect(mixture().write(tmp_path / "m"))
    assert found.findings == ()
    assert ("experts.down_proj", "BF16") in {(one.layer, one.format) for one in found.counts}


@pytest.mark.parametrize("name", ["modelopt fp8 experts", "modelopt nvfp4 experts"])
def test_all_experts_of_a_stack_are_counted(tmp_path, name):
    counts = inspect(sound(name).write(tmp_path / "m")).counts
    told = {one.layer: one.parameters for one in counts}
    assert told["experts.gate_up_proj"] == 2 * 4 * 512 * 128
    assert told["experts.down_proj"] == 2 * 4 * 128 * 256


def test_the_whole_examination_is_plain_json(tmp_path):
    said = json.loads(json.dumps(inspect(sound("awq").write(tmp_path / "m")).as_json()))
    assert list(said) == ["checkpoint", "sound", "recognized", "size", "counts", "findings"]
    assert said["size"]["exact_bits"] == pytest.approx(4.15625)


def test_every_rule_has_a_remedy():
    assert all(rule.hint for rule in RULES.values())
