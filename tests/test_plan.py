"""A plan that cannot work is refused before any work, with every reason and its remedy."""

import shutil

import pytest

from builders.checkpoint import Checkpoint
from builders.plan import Plan
from builders.spec import Spec
from fakes.checkpoints import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("plan") / "model")


def resolve(model, *overrides, calibrated=True):
    file = model.parent / "release.toml"
    texts = '[quantize.calibration]\nfiles = ["texts.jsonl"]\n' if calibrated else ""
    file.write_text(f'[model]\npath = "model"\n{texts}')
    return Plan.resolve(Spec.read(file, overrides), Checkpoint.open(model))


def reasons(plan):
    return [refusal.reason for refusal in plan.refusals()]


def test_the_demo_s_plan_is_possible_and_complete(model):
    plan = resolve(model)
    assert plan.refusals() == ()
    described = plan.as_json()
    assert described["recipe"]["scheme"] == "W8A8KV8"
    assert described["recipe"]["kv_cache"] == "fp8"
    assert described["serve"]["context"] == 512


def test_kv_bytes_per_token_follow_the_architecture_and_the_format(model):
    # 2 (keys, values) x 2 layers x 2 KV heads x 32 wide x 1 byte
    assert resolve(model).capacity.kv_bytes_per_token == 256
    assert resolve(model, "quantize.kv_cache=none").capacity.kv_bytes_per_token == 512


def test_the_digest_depends_on_what_is_asked_and_not_on_where_it_lies(model, tmp_path):
    moved = shutil.copytree(model, tmp_path / "model")
    assert resolve(moved).digest == resolve(model).digest
    assert resolve(model, "serve.context=64").digest != resolve(model).digest
    assert str(tmp_path) not in str(resolve(moved).as_json())


@pytest.mark.parametrize(
    ("overrides", "reason", "hint"),
    [
        (("target.tier=t4",), "t4 (Turing, SM75) cannot multiply", "int4_rtn"),
        (("target.tier=a100",), "FP8 activations", "int8_smoothquant"),
        (("target.runtime=trtllm",), "trtllm needs a GPU tier", "embedded"),
        (
            ("target.runtime=vllm", "quantize.kv_cache=none"),
            "vLLM multiplies FP8 on CPUs with AMX only",
            "fp8_per_token",
        ),
        (("quantize.kv_cache=fp8_e5m2",), "KV cache in fp8_e5m2", "E4M3"),
        (("quantize.kv_cache=int8",), "KV cache in int8", "fp8"),
        (("serve.context=513",), "more than the model's own 512", "at most 512"),
        (("target.tp=2",), "one device", "to 1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(model, overrides, reason, hint):
    refusals = resolve(model, *overrides).refusals()
    assert len(refusals) == 1
    assert reason in refusals[0].reason
    assert hint in refusals[0].hint


def test_weight_only_recipes_run_on_every_tier(model):
    assert reasons(resolve(model, "target.tier=t4", "quantize.recipe=int4_rtn")) == []


def test_static_scales_need_calibration_texts(model):
    assert "needs calibration texts" in reasons(resolve(model, calibrated=False))[0]
    assert reasons(resolve(model, "quantize.recipe=int4_rtn", calibrated=False)) == []


def test_every_reason_is_given_at_once(model):
    plan = resolve(model, "target.tier=t4", "serve.context=9999", "quantize.kv_cache=nvfp4")
    assert len(reasons(plan)) == 3


def test_nothing_is_taken_as_it_is_unless_it_came_quantized(model):
    plan = resolve(model, "quantize.recipe=none")
    assert "is not quantized" in reasons(plan)[0]


def test_a_quantized_checkpoint_is_not_quantized_again(model, tmp_path):
    again = shutil.copytree(model, tmp_path / "model")
    (again / "hf_quant_config.json").write_text('{"quant_algo": "FP8"}')
    assert "quantized already (FP8)" in reasons(resolve(again))[0]
