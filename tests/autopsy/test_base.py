"""Beside its base, a checkpoint shows what it lost, gained or changed: tensors, settings, text."""

import json

import numpy as np
import pytest

from builders.autopsy import inspect
from builders.checkpoint import Checkpoint
from fakes.checkpoints import bfloat16
from fakes.quantized import LAYER, rules, sound


def settle(path, name, **said):
    """Change keys of a JSON file of a checkpoint."""
    file = path / name
    data = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(data | said))


@pytest.fixture
def written(tmp_path):
    """A sound FP8 checkpoint on disk, to be spoiled there."""
    return sound("modelopt fp8").write(tmp_path / "m")


# --- tensors


def test_a_tensor_that_was_lost_is_named(spoiled, base):
    found = spoiled("modelopt fp8", lambda f: f.tensors.pop("model.norm.weight"), base=base)
    assert rules(found) == {"base-tensor-missing": "model.norm.weight"}


def test_a_layer_that_was_lost_is_named(spoiled, base):
    def change(fake):
        for part in ("weight", "weight_scale", "input_scale"):
            del fake.tensors[f"{LAYER}.{part}"]

    assert rules(spoiled("modelopt fp8", change, base=base)) == {
        "base-tensor-missing": f"{LAYER}.weight"
    }


def test_a_tensor_that_came_in_is_named(spoiled, base):
    def change(fake):
        fake.tensors["model.extra.weight"] = ("BF16", bfloat16(np.ones(4)))

    assert rules(spoiled("awq", change, base=base)) == {"base-tensor-extra": "model.extra.weight"}


def test_a_bias_that_came_in_warns(spoiled, base):
    def change(fake):
        fake.tensors[f"{LAYER}.bias"] = ("F16", np.zeros(128, np.float16))

    found = spoiled("gptq", change, base=base)
    assert rules(found) == {"base-bias-extra": f"{LAYER}.bias"}
    assert found.sound


def test_what_was_left_alone_keeps_its_shape_and_should_keep_its_dtype(spoiled, base):
    def change(fake):
        fake.tensors["model.norm.weight"] = ("F16", np.ones(128, np.float16))
        fake.tensors["lm_head.weight"] = ("BF16", bfloat16(np.ones((4000, 128))))

    found = spoiled("modelopt fp8", change, base=base)
    assert rules(found) == {"base-shape": "lm_head.weight", "base-dtype": "model.norm.weight"}


@pytest.mark.parametrize("name", ["modelopt fp8", "compressed w8a8", "bitsandbytes int8"])
def test_codes_of_another_shape_than_the_base_are_found(spoiled, base, name):
    def change(fake):
        for full in [full for full in fake.tensors if full.startswith(LAYER)]:
            other = full.replace("down_proj", "up_proj")
            fake.tensors[full] = fake.tensors[other]

    found = spoiled(name, change, base=base)
    assert rules(found) == {"base-shape": f"{LAYER}.weight"}
    assert found.findings[0].what == "holds 256 × 128 weights, the base 128 × 256"


def test_a_flat_row_of_codes_of_another_length_is_found(spoiled, base):
    def change(fake):
        for full in [full for full in fake.tensors if full.startswith(LAYER)]:
            fake.tensors[full] = fake.tensors[full.replace("mlp.down_proj", "self_attn.q_proj")]

    assert rules(spoiled("bitsandbytes nf4", change, base=base)) == {
        "base-shape": f"{LAYER}.weight"
    }


def test_a_tied_output_layer_may_be_left_out(spoiled, tmp_path):
    tied = sound("unquantized")
    tied.config["tie_word_embeddings"] = True
    tied.tensors["lm_head.weight"] = tied.tensors["model.embed_tokens.weight"]
    original = Checkpoint.open(tied.write(tmp_path / "tied"))

    def change(fake):
        fake.config["tie_word_embeddings"] = True
        del fake.tensors["lm_head.weight"]

    assert rules(spoiled("modelopt fp8", change, base=original)) == {}


def test_experts_may_be_stacked_on_one_side_only(spoiled, base):
    def split(fake):
        fake.tensors = {
            name.replace(".mlp.", ".mlp.experts.0."): data for name, data in fake.tensors.items()
        }

    def stack(fake):
        at = "model.layers.{}.mlp.experts"
        fake.tensors = {n: d for n, d in fake.tensors.items() if ".mlp." not in n}
        for number in (0, 1):
            data = bfloat16(np.ones((1, 512, 128)))
            fake.tensors[f"{at.format(number)}.gate_up_proj"] = ("BF16", data)

    original = sound("unquantized")
    stack(original)
    path = base.path.parent / "stacked"
    if not path.is_dir():
        original.write(path)
    assert rules(spoiled("unquantized", split, base=Checkpoint.open(path))) == {}


def test_a_stack_of_experts_that_was_lost_is_named(spoiled, tmp_path):
    name = "model.layers.1.feed_forward.experts.down_proj"
    original = Checkpoint.open(sound("unquantized experts").write(tmp_path / "base"))

    def change(fake):
        for full in [full for full in fake.tensors if full.startswith(name)]:
            del fake.tensors[full]

    found = spoiled("modelopt fp8 experts", change, base=original)
    assert rules(found) == {"base-tensor-missing": name}


def test_a_stack_of_fewer_experts_than_the_base_has_is_found(spoiled, tmp_path):
    name = "model.layers.1.feed_forward.experts.down_proj"
    original = Checkpoint.open(sound("unquantized experts").write(tmp_path / "base"))

    def change(fake):
        dtype, data = fake.tensors[name]
        fake.tensors[name] = (dtype, data[:3])

    found = spoiled("modelopt fp8 experts", change, base=original)
    assert rules(found) == {"base-shape": name}
    assert found.findings[0].what == "holds 3 × 128 × 256 weights, the base 4 × 256 × 128"


def test_a_base_of_another_family_is_said_once(spoiled, base):
    def rename(fake):
        fake.tensors = {f"transformer.{name}": data for name, data in fake.tensors.items()}

    found = spoiled("unquantized", rename, base=base)
    assert rules(found) == {"base-unlike": "model"}


# --- settings


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", 64), ("rms_norm_eps", 1e-6), ("model_type", "mistral"), ("head_dim", None)],
)
def test_a_setting_of_the_model_that_changed_is_found(written, base, key, value):
    settle(written, "config.json", **{key: value})
    found = inspect(written, base=base)
    assert rules(found) == {"base-config": "config.json"}
    assert f"says {key}" in found.findings[0].what


def test_rotary_settings_that_changed_are_found(written, base):
    new = {"rope_theta": 10000.0, "rope_type": "default"}
    settle(written, "config.json", rope_parameters=new, rope_theta=10000.0)
    assert rules(inspect(written, base=base)) == {"base-rope": "config.json"}


def test_rotary_settings_that_were_lost_are_found(written, base):
    config = json.loads((written / "config.json").read_text())
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        del config[key]
    (written / "config.json").write_text(json.dumps(config))
    assert rules(inspect(written, base=base)) == {"base-rope": "config.json"}


# --- text


def test_a_swapped_tokenizer_is_found(written, base):
    data = json.loads((written / "tokenizer.json").read_text())
    words = data["model"]["vocab"]
    one, other = list(words)[300:302]
    words[one], words[other] = words[other], words[one]
    (written / "tokenizer.json").write_text(json.dumps(data))
    found = inspect(written, base=base)
    assert rules(found) == {"tokenizer-differs": "tokenizer.json"}
    assert "another vocabulary" in found.findings[0].what


def test_a_tokenizer_saved_anew_is_the_same(written, base):
    data = json.loads((written / "tokenizer.json").read_text())
    merges = data["model"]["merges"]
    data["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m.split(" ") for m in merges]
    (written / "tokenizer.json").write_text(json.dumps(data, indent=1))
    assert rules(inspect(written, base=base)) == {}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda data: data["model"]["merges"].pop(), "tokenizer-differs"),
        (lambda data: data["added_tokens"].clear(), "tokenizer-differs"),
        (lambda data: data.update(normalizer={"type": "NFC"}), "tokenizer-step-differs"),
    ],
)
def test_a_tokenizer_that_reads_otherwise_is_found(written, base, change, rule):
    data = json.loads((written / "tokenizer.json").read_text())
    change(data)
    (written / "tokenizer.json").write_text(json.dumps(data))
    assert rules(inspect(written, base=base)) == {rule: "tokenizer.json"}


def test_a_tokenizer_of_another_kind_is_found(written, base):
    (written / "tokenizer.json").unlink()
    (written / "tokenizer.model").write_bytes(b"x")
    assert rules(inspect(written, base=base)) == {"tokenizer-differs": "tokenizer.json"}


def test_a_tokenizer_model_of_other_bytes_is_found(written, tmp_path):
    original = sound("unquantized").write(tmp_path / "base")
    (original / "tokenizer.model").write_bytes(b"x")
    (written / "tokenizer.model").write_bytes(b"y")
    found = inspect(written, base=Checkpoint.open(original))
    assert rules(found) == {"tokenizer-differs": "tokenizer.model"}


def test_a_changed_chat_template_is_found_wherever_it_lies(written, tmp_path):
    original = sound("unquantized").write(tmp_path / "base")
    opened = Checkpoint.open(original)
    settle(original, "tokenizer_config.json", chat_template="{{ messages }}")
    assert rules(inspect(written, base=opened)) == {"chat-template-differs": "chat template"}
    (written / "chat_template.jinja").write_text("{{ messages }}\n")
    assert rules(inspect(written, base=opened)) == {}
    (written / "chat_template.jinja").write_text("{{ messages | length }}")
    assert rules(inspect(written, base=opened)) == {"chat-template-differs": "chat template"}
    (written / "chat_template.jinja").unlink()
    (written / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    assert rules(inspect(written, base=opened)) == {}


def test_named_chat_templates_are_compared_one_by_one(written, tmp_path):
    original = sound("unquantized").write(tmp_path / "base")
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    settle(original, "tokenizer_config.json", chat_template=named)
    (written / "chat_template.jinja").write_text("a")
    (written / "additional_chat_templates").mkdir()
    (written / "additional_chat_templates" / "tool_use.jinja").write_text("c")
    found = inspect(written, base=Checkpoint.open(original))
    assert [f.what for f in found.findings] == ["differs from the base's (tool_use)"]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("eos_token", "<|other|>", "special-tokens-differ"),
        ("add_bos_token", True, "special-tokens-differ"),
        ("bos_token", None, "special-tokens-differ"),
        ("pad_token", "<|pad|>", "padding-differs"),
    ],
)
def test_special_tokens_that_changed_are_found(written, base, key, value, rule):
    settle(written, "tokenizer_config.json", **{key: value})
    found = inspect(written, base=base)
    assert rules(found) == {rule: key}
    assert found.sound is (rule == "padding-differs")


def test_special_tokens_may_be_said_in_another_file_or_form(written, base):
    data = json.loads((written / "tokenizer_config.json").read_text())
    token = data.pop("eos_token")
    (written / "tokenizer_config.json").write_text(json.dumps(data))
    settle(written, "special_tokens_map.json", eos_token={"content": token, "lstrip": False})
    assert rules(inspect(written, base=base)) == {}


def test_an_end_of_generation_that_changed_warns(written, tmp_path):
    original = sound("unquantized").write(tmp_path / "base")
    settle(original, "generation_config.json", eos_token_id=[0])
    settle(written, "generation_config.json", eos_token_id=0)
    opened = Checkpoint.open(original)
    assert rules(inspect(written, base=opened)) == {}
    settle(written, "generation_config.json", eos_token_id=[0, 7])
    found = inspect(written, base=opened)
    assert rules(found) == {"generation-differs": "eos_token_id"}
    assert found.sound
