"""Every method is recognized by its files and told in the words of the house, others refused."""

import json

import pytest

from builders.autopsy import METHODS, inspect, recognize
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from fakes.quantized import SOUND, sound

# name: method, algorithm, scheme, group, symmetric
FACTS = {
    "unquantized": ("unquantized", "", "W16A16", 0, True),
    "modelopt fp8": ("modelopt", "FP8", "W8A8KV8", 0, True),
    "modelopt nvfp4": ("modelopt", "NVFP4", "W4A4KV8", 16, True),
    "modelopt int4 awq": ("modelopt", "W4A16_AWQ", "W4A16", 128, True),
    "modelopt mixed": ("modelopt", "MIXED_PRECISION", "W8A8", 0, True),
    "modelopt flat": ("modelopt", "FP8", "W8A8KV8", 0, True),
    "modelopt fp8 experts": ("modelopt", "FP8", "W8A8", 0, True),
    "modelopt nvfp4 experts": ("modelopt", "NVFP4", "W4A4", 16, True),
    "modelopt mixed experts": ("modelopt", "MIXED_PRECISION", "W8A8", 0, True),
    "compressed fp8": ("compressed-tensors", "FP8", "W8A8KV8", 0, True),
    "compressed fp8 dynamic": ("compressed-tensors", "FP8_DYNAMIC", "W8A8", 0, True),
    "compressed fp8 block": ("compressed-tensors", "FP8_BLOCK", "W8A8", 0, True),
    "compressed w8a8": ("compressed-tensors", "W8A8", "W8A8", 0, True),
    "compressed w4a16": ("compressed-tensors", "W4A16", "W4A16", 128, True),
    "compressed w4a16 zeros": ("compressed-tensors", "W4A16", "W4A16", 128, False),
    "compressed nvfp4": ("compressed-tensors", "NVFP4", "W4A4", 16, True),
    "compressed mxfp4": ("compressed-tensors", "MXFP4A16", "W4A16", 32, True),
    "gptq": ("gptq", "W4A16_GPTQ", "W4A16", 128, True),
    "gptq beside": ("gptq", "W4A16_GPTQ", "W4A16", 128, True),
    "awq": ("awq", "AWQ", "W4A16", 128, False),
    "awq old": ("awq", "AWQ", "W4A16", 128, False),
    "bitsandbytes int8": ("bitsandbytes", "BNB_INT8", "W8A8", 0, True),
    "bitsandbytes nf4": ("bitsandbytes", "BNB_NF4", "W4A16", 64, True),
    "bitsandbytes nf4 double": ("bitsandbytes", "BNB_NF4", "W4A16", 64, True),
    "hqq": ("hqq", "HQQ_INT4", "W4A16", 64, False),
    "fp8 block": ("fp8", "FP8_BLOCK_SCALES", "W8A8", 128, True),
    "fp8 block experts": ("fp8", "FP8_BLOCK_SCALES", "W8A8", 128, True),
    "fp8 static": ("fp8", "FP8", "W8A8", 0, True),
    "fp8 static inv": ("fp8", "FP8", "W8A8", 0, True),
    "fp8 dynamic": ("fp8", "FP8", "W8A8", 0, True),
    "mxfp4": ("mxfp4", "MXFP4", "W4A16", 32, True),
}


@pytest.fixture
def opened(tmp_path):
    """Write a checkpoint, its settings changed by ``change``, and open it."""

    def make(name, change=lambda fake: None):
        fake = sound(name)
        change(fake)
        return Checkpoint.open(fake.write(tmp_path / "model"))

    return make


@pytest.mark.parametrize("name", SOUND)
def test_each_method_is_told_in_our_words(opened, name):
    known = recognize(opened(name))
    facts = (known.method, known.algorithm, known.scheme, known.group, known.symmetric)
    assert facts == FACTS[name]
    assert known.recipe.scheme == known.scheme
    assert known.quantized is (name != "unquantized")


def test_runtimes_that_do_not_read_stacked_experts_are_left_out(opened):
    assert recognize(opened("modelopt fp8 experts")).runtimes == ("trtllm", "vllm")


def test_every_known_method_has_a_fake():
    assert {facts[0] for facts in FACTS.values()} == {*METHODS, "unquantized"}


@pytest.mark.parametrize("name", SOUND)
def test_what_came_quantized_needs_no_calibration_texts(opened, name):
    assert not recognize(opened(name)).recipe.needs_texts


def test_a_fact_sheet_is_plain_json(opened):
    said = json.loads(json.dumps(recognize(opened("modelopt fp8")).as_json()))
    assert said == {
        "method": "modelopt",
        "algorithm": "FP8",
        "format": "fp8",
        "scheme": "W8A8KV8",
        "activations": "fp8",
        "kv_cache": "fp8",
        "group": 0,
        "symmetric": True,
        "kept": ["lm_head", "model.embed_tokens"],
        "runtimes": ["embedded", "trtllm", "vllm"],
        "notes": [],
    }


@pytest.mark.parametrize(
    ("said", "complaint", "hint"),
    [
        ({"quant_method": "aqlm"}, "quantized by aqlm, which is not known here", "known: modelopt"),
        ({"quant_method": "gptqq"}, "quantized by gptqq", "did you mean gptq?"),
        ({"bits": 4}, "an unnamed method", "known: modelopt"),
    ],
)
def test_an_unknown_method_is_refused_with_the_known_ones(opened, said, complaint, hint):
    checkpoint = opened("gptq", lambda fake: fake.config.update(quantization_config=said))
    with pytest.raises(UsageError, match=complaint) as caught:
        recognize(checkpoint)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "said", "complaint"),
    [
        ("gptq", {"checkpoint_format": "marlin"}, "GPTQ packing 'marlin' is not known"),
        ("gptq", {"bits": 3}, "GPTQ with 3 bits is not known"),
        ("awq", {"version": "gemv"}, "AWQ packing 'gemv' is not known"),
        ("bitsandbytes nf4", {"bnb_4bit_quant_type": "fp4"}, "bitsandbytes fp4 stored as uint8"),
        ("bitsandbytes nf4", {"bnb_4bit_quant_storage": "bfloat16"}, "nf4 stored as bfloat16"),
        ("hqq", {"quant_config": {"weight_quant_params": {"nbits": 2}}}, "HQQ with 2 bits"),
        ("hqq", {"quant_config": {"weight_quant_params": {"axis": 0}}}, "HQQ along axis 0"),
        ("compressed w4a16", {"format": "marlin-24"}, "format 'marlin-24' are not known"),
        ("compressed w4a16", {"config_groups": {}}, "without config_groups"),
        ("compressed w8a8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
        ("fp8 block", {"weight_block_size": 128}, "weight_block_size is 128, not two numbers"),
    ],
)
def test_an_unknown_variant_of_a_known_method_is_refused(opened, name, said, complaint):
    with pytest.raises(UsageError, match=complaint):
        recognize(opened(name, lambda fake: fake.declare(**said)))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"quant_algo": "FP9"}, "ModelOpt algorithm 'FP9' is not known"),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP5"}, "ModelOpt KV cache 'FP5'"),
    ],
)
def test_an_unknown_algorithm_of_modelopt_is_refused(opened, said, complaint):
    def change(fake):
        fake.files["hf_quant_config.json"] = {"quantization": said}

    with pytest.raises(UsageError, match=complaint):
        recognize(opened("modelopt fp8", change))


@pytest.mark.parametrize("text", ["", "[]", '{"quantization": 4}', "{"])
def test_a_broken_declaration_names_its_file(opened, text):
    checkpoint = opened("modelopt fp8")
    (checkpoint.path / "hf_quant_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"hf_quant_config\.json"):
        recognize(checkpoint)


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_broken_file_of_an_old_tool_is_named(opened, text):
    checkpoint = opened("gptq beside")
    (checkpoint.path / "quantize_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"quantize_config\.json"):
        recognize(checkpoint)


def test_a_kv_cache_alone_is_a_quantization(opened):
    def only_kv(fake):
        said = {"quant_algo": None, "kv_cache_quant_algo": "FP8"}
        fake.files["hf_quant_config.json"] = {"quantization": said}

    known = recognize(opened("unquantized", only_kv))
    assert (known.scheme, known.algorithm) == ("W16A16KV8", "KV cache only")
    assert known.quantized


@pytest.mark.parametrize("scheme", ["NVFP4", {"num_bits": 4, "type": "float"}])
def test_the_flat_form_tells_an_nvfp4_cache(opened, scheme):
    known = recognize(opened("modelopt flat", lambda fake: fake.declare(kv_cache_scheme=scheme)))
    assert known.kv_cache is Format.NVFP4


def test_settings_of_a_text_model_inside_are_found(opened):
    def nest(fake):
        fake.config["text_config"] = {"quantization_config": fake.config.pop("quantization_config")}

    assert recognize(opened("gptq", nest)).method == "gptq"


def test_old_words_for_a_known_method_are_understood(opened):
    checkpoint = opened("modelopt flat", lambda fake: fake.declare(quant_method="modelopt_fp4"))
    assert recognize(checkpoint).method == "modelopt"


@pytest.mark.parametrize("name", ["compressed w4a16", "bitsandbytes int8", "modelopt flat"])
def test_a_declaration_that_does_not_name_its_method_is_guessed(opened, name):
    method = recognize(opened(name, lambda f: f.config["quantization_config"].pop("quant_method")))
    assert method.method == FACTS[name][0]


def test_modules_that_gptqmodel_treats_otherwise_are_known(opened):
    rules = {"-:.*down_proj": {}, "+:.*up_proj": {"bits": 8}}
    known = recognize(opened("gptq", lambda fake: fake.declare(dynamic=rules, lm_head=True)))
    assert known.storage("model.layers.0.mlp.down_proj") is None
    assert known.storage("model.layers.0.mlp.up_proj").weights is Format.INT8
    assert known.storage("model.layers.0.mlp.gate_proj").weights is Format.INT4
    assert known.storage("lm_head").weights is Format.INT4
    assert known.kept == (".*down_proj",)


@pytest.mark.parametrize(
    ("ignore", "left"),
    [("re:.*down_proj", True), ("model.layers.0.mlp.down_proj", True), ("down_proj", False)],
)
def test_compressed_tensors_ignores_whole_names_and_expressions(opened, ignore, left):
    known = recognize(opened("compressed w8a8", lambda fake: fake.declare(ignore=[ignore])))
    assert (known.storage("model.layers.0.mlp.down_proj") is None) is left


def test_groups_of_compressed_tensors_are_told_apart_by_their_targets(opened):
    def split(fake):
        said = fake.config["quantization_config"]["config_groups"]
        eight = {"num_bits": 8, "type": "int", "strategy": "channel"}
        said["group_1"] = {
            "targets": ["re:.*down_proj"],
            "weights": eight,
            "format": "int-quantized",
        }

    known = recognize(opened("compressed w4a16", split))
    assert known.storage("model.layers.0.mlp.down_proj").name == "W8A16"
    assert known.storage("model.layers.0.mlp.up_proj").name == "W4A16"
    assert known.notes == ("also W8A16",)


def test_an_expression_that_is_none_is_taken_as_a_name(opened):
    known = recognize(opened("compressed w8a8", lambda fake: fake.declare(ignore=["re:(", "x"])))
    assert known.storage("x") is None
    assert known.storage("(") is None
    assert known.storage("y") is not None


def test_an_unquantized_checkpoint_in_half_precision_says_so(tmp_path):
    fake = sound("unquantized")
    fake.tensors = {name: ("F16", data) for name, (_, data) in fake.tensors.items()}
    assert inspect(fake.write(tmp_path / "m")).recognized.weights is Format.FP16
