"""release.toml: defaults for all but the model, overrides, and errors that name the key."""

import pytest

from builders.errors import UsageError
from builders.formats import Format
from builders.recipe import HubTexts, Memory, Unreached
from builders.spec import Spec


def read(tmp_path, text='[model]\npath = "m"\n', *overrides):
    file = tmp_path / "release.toml"
    file.write_text(text)
    return Spec.read(file, overrides)


def test_only_the_model_must_be_said(tmp_path):
    spec = read(tmp_path)
    assert spec.model.path == tmp_path / "m"
    assert (spec.quantize.recipe, spec.quantize.kv_cache) == ("fp8", None)
    assert (spec.target.tier, spec.target.runtime) == ("cpu", "embedded")
    assert spec.channel == "cpu/stable"
    assert spec.policy == tmp_path / "policy.toml"
    assert spec.store is None


def test_the_channel_follows_the_tier(tmp_path):
    assert read(tmp_path, '[model]\npath = "m"\n', "target.tier=h100").channel == "h100/stable"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("quantize.kv_cache=none", lambda s: s.quantize.kv_cache, Format.BF16),
        ("quantize.kv_cache=fp8_e5m2", lambda s: s.quantize.kv_cache, Format.FP8_E5M2),
        ("serve.context=128", lambda s: s.serve.context, 128),
        ("serve.name=a=b", lambda s: s.serve.name, "a=b"),
        ('quantize.exclude=["*.0.*"]', lambda s: s.quantize.exclude, ("*.0.*",)),
        ("quantize.calibration.samples=7", lambda s: s.quantize.calibration.samples, 7),
        ("target.tp = 2", lambda s: s.target.tp, 2),
    ],
)
def test_one_key_is_overridden(tmp_path, override, get, value):
    assert get(read(tmp_path, '[model]\npath = "m"\n', override)) == value


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "model needs either path or hub_id", "[model]"),
        ('[model]\npath = "m"\nhub_id = "a/b"\n', "both path and hub_id", ""),
        ('[model]\nhub_id = "a/b"\nrevision = "main"\n', "40 hex digits", "branches"),
        ('[model]\npath = "m"\n[quantise]\n', "unknown key quantise", "did you mean quantize?"),
        ('[model]\npath = "m"\n[serve]\ncontxt = 1\n', r"serve\.contxt", "did you mean context?"),
        ('[model]\npath = "m"\n[quantize]\nkv_cache = "fp4"\n', "kv_cache", ""),
        ('[model]\npath = "m"\n[target]\ntier = "h10"\n', "unknown tier", "did you mean h100"),
        ('[model]\npath = "m"\n[target]\nruntime = "tgi"\n', "runtime = 'tgi'", ""),
        ('[model]\npath = "m"\n[target]\ntp = 0\n', r"target\.tp must be a whole number", ""),
        ('[model]\npath = "m"\n[quantize.calibration]\nsample = 1\n', r"calibration\.sample", ""),
        ("[model\n", "release.toml", "valid TOML"),
    ],
)
def test_a_mistake_names_the_key_and_the_remedy(tmp_path, text, what, hint):
    with pytest.raises(UsageError, match=what) as caught:
        read(tmp_path, text)
    assert hint in caught.value.hint


@pytest.mark.parametrize("override", ["serve", "=1", "serve.=1", "model.path.x=1"])
def test_a_malformed_override_is_refused(tmp_path, override):
    with pytest.raises(UsageError, match="--set"):
        read(tmp_path, '[model]\npath = "m"\n', override)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml: no such file"):
        Spec.read(tmp_path / "nowhere.toml")


def test_an_override_cannot_smuggle_in_a_second_key(tmp_path):
    spec = read(tmp_path, '[model]\npath = "m"\n', 'serve.name="a"\nother = 1')
    assert spec.serve.name == '"a"\nother = 1'


def calibration(tmp_path, *lines):
    text = '[model]\npath = "m"\n[quantize.calibration]\n' + "\n".join(lines)
    return read(tmp_path, text).quantize.calibration


def test_calibration_files_have_weights_and_may_lie_on_the_hub(tmp_path):
    commit = "0123456789" * 4
    found = calibration(
        tmp_path,
        f'files = ["a.jsonl", "hub:org/d@{commit}/b.jsonl",'
        f' "hub:org/d@{commit}?split=test&config=en&column=question"]',
        "weights = [3, 1.5, 0]",
        'unreached = "fail"',
        "overlap = 0",
    )
    assert found.files == (
        tmp_path / "a.jsonl",
        HubTexts(hub_id="org/d", revision=commit, file="b.jsonl"),
        HubTexts(hub_id="org/d", revision=commit, split="test", config="en", column="question"),
    )
    assert (found.weights, found.unreached, found.overlap) == ((3, 1.5, 0), Unreached.FAIL, 0)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (['files = ["a.jsonl"]', "weights = [1, 2]"], "weights has 2 numbers for 1 files"),
        (['files = ["a.jsonl"]', "weights = [0]"], "weights has 1 numbers for 1 files"),
        (['files = ["a.jsonl"]', "weights = [-1]"], "weights.0 must be a finite number"),
        (['files = ["a.jsonl"]', 'weights = ["1"]'], "weights.0 must be a number"),
        (['files = ["a.jsonl"]', "weights = 1"], "weights must be a list of numbers"),
        (['files = ["hub:org/d@main/b.jsonl"]'], "names no pinned file or split"),
        ([f'files = ["hub:org/d@{"a" * 40}/b.bin"]'], "names no pinned file or split"),
        ([f'files = ["hub:org/d@{"a" * 40}?spilt=test"]'], "names no pinned file or split"),
        (['unreached = "ignore"'], "is not one of explain, fail"),
    ],
)
def test_a_mistake_in_the_calibration_is_named(tmp_path, lines, what):
    with pytest.raises(UsageError, match=what):
        calibration(tmp_path, *lines)


def test_memory_is_auto_unless_said(tmp_path):
    model = '[model]\npath = "m"\n'
    assert read(tmp_path).quantize.memory is Memory.AUTO
    assert read(tmp_path, model, "quantize.memory=streamed").quantize.memory is Memory.STREAMED
    with pytest.raises(UsageError, match="is not one of auto, resident, streamed"):
        read(tmp_path, model, "quantize.memory=disk")
