"""The engine's own configuration against what was asked for."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.engine.trtllm.effective import Effective, compare
from builders.errors import UsageError
from builders.formats import Format
from fakes.trtllm.checkpoints import engine_config
from fakes.trtllm.settings import plain, settings

FP8 = {"quant_algo": "FP8", "kv": "FP8"}


def effective(build=None, **changed):
    config = engine_config(build=build, **changed)
    return Effective(
        version=config["version"], pretrained=config["pretrained_config"],
        build=config["build_config"],
    )  # fmt: skip


def test_an_engine_as_asked_has_no_differences():
    assert compare(settings(), effective(**FP8)) == ()
    assert compare(plain(overrides=(("gemm_plugin", "disable"),)), effective()) == ()


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (effective(**FP8, build={"max_batch_size": 4}), "max_batch_size: 4 instead of 8"),
        (effective(**FP8, build={"max_seq_len": 2048}), "max_seq_len: 2048 instead of 4096"),
        (effective(**FP8, tp=2), "tp: 2 instead of 1"),
        (effective(quant_algo="FP8"), "kv_cache_quant_algo: none instead of FP8"),
        (effective(kv="FP8"), "quant_algo: none instead of FP8"),
        (effective(**FP8, architecture="OtherForCausalLM"), "architecture: OtherForCausalLM"),
    ],
)
def test_an_engine_that_serves_something_else_is_not_the_one_asked_for(found, what):
    first = compare(settings(), found)[0]
    assert first.fatal
    assert str(first).startswith(what)


def test_another_kernel_choice_is_told_and_taken():
    found = effective(**FP8, build={"plugin_config": {"gemm_plugin": "fp8"}})
    (only,) = compare(settings(), found)
    assert str(only) == "gemm_plugin: fp8 instead of disable"
    assert not only.fatal


def test_auto_may_be_recorded_as_the_models_own_type():
    for said in ("auto", "bfloat16"):
        assert compare(plain(), effective(build={"plugin_config": {"gemm_plugin": said}})) == ()


def test_no_quant_is_no_quantization():
    assert effective(quant_algo="NO_QUANT").quantization("quant_algo") == ""


def test_the_digest_ignores_the_order_of_keys_and_nothing_else():
    one = effective(**FP8)
    turned = replace(one, build=dict(reversed(one.build.items())))
    assert turned.digest == one.digest
    assert effective(**FP8, build={"max_batch_size": 9}).digest != one.digest


def test_an_unquantized_cache_in_half_precision_is_unquantized():
    assert (
        compare(plain(kv_cache=Format.FP16, overrides=(("gemm_plugin", "disable"),)), effective())
        == ()
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must hold an object"),
        ("{}", "version is missing"),
        ('{"version": 1}', "version is missing"),
        ('{"version": "1.2\\n1"}', "version is missing"),
        ('{"version": "1.2.1"}', "must be tables"),
        ('{"version": "1.2.1", "pretrained_config": [], "build_config": {}}', "must be tables"),
        ('{"version": Infinity}', "no JSON number"),
    ],
)
def test_a_broken_configuration_is_refused_by_name(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        Effective.read(tmp_path)
    assert "config.json" in str(caught.value)


def test_a_missing_configuration_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Effective.read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(build=st.dictionaries(st.text(max_size=8), json_values), mapping=json_values)
def test_no_configuration_ends_in_anything_but_an_answer_or_a_usage_error(build, mapping):
    config = engine_config(**FP8)
    pretrained = config["pretrained_config"] | {"mapping": mapping}
    found = Effective(version="1.2.1", pretrained=json.loads(json.dumps(pretrained)), build=build)
    try:
        compare(settings(), found)
    except UsageError:
        return
