"""What we write says the same to transformers 4 and 5, and carries the source's own files."""

import json
import shutil
import stat

import pytest
from transformers import AutoConfig

from builders.bundle import Tree
from builders.quantize.interchange import COPIED, finish, rope, settings

LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 256,
    "rope_type": "llama3",
}


def test_tokenizer_and_generation_files_are_the_sources_byte_for_byte(export, source):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (export("fp8").path / name).read_bytes() == (source.path / name).read_bytes()


def test_files_can_be_read_by_others(export):
    for path in export("fp8").path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_config_keeps_the_sources_settings_and_no_path(export, source):
    text = (export("fp8").path / "config.json").read_text()
    config = json.loads(text)
    for key in source.config:
        assert config[key] == source.config[key]
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert "_name_or_path" not in text
    assert str(source.path) not in text


def test_no_export_says_a_time_or_a_path(export, source):
    for name in ("fp8", "int8_smoothquant", "int4_rtn"):
        raw = (export(name).path / "model.safetensors").read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert header["__metadata__"] == {"format": "pt"}
        beside = json.loads((export(name).path / "hf_quant_config.json").read_text())
        assert beside["producer"] == {"name": "modelopt", "version": "0.47.0"}


def test_rounding_to_nearest_does_not_claim_smoothing_scales(export):
    path = export("int4_rtn").path
    said = json.loads((path / "hf_quant_config.json").read_text())["quantization"]
    assert said["pre_quant_scale"] is False


def test_default_rotary_settings_are_said_in_both_forms():
    parameters = {"rope_theta": 500000.0, "rope_type": "default"}
    assert rope({"rope_parameters": parameters}) == {
        "rope_parameters": parameters,
        "rope_theta": 500000.0,
        "rope_scaling": None,
    }


def test_scaled_rotary_settings_are_said_in_both_forms():
    assert rope({"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}}) == {
        "rope_parameters": LLAMA3 | {"rope_theta": 500000.0},
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
    }


def test_a_partial_rotation_moves_to_its_old_place():
    parameters = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
    assert rope({"rope_parameters": parameters}) == {
        "rope_parameters": parameters,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "rope_scaling": None,
    }


def test_local_and_global_layers_keep_their_two_bases():
    linear = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    local = {"rope_theta": 1e4, "rope_type": "default"}
    said = rope({"rope_parameters": {"full_attention": linear, "sliding_attention": local}})
    assert said["rope_theta"] == 1e6
    assert said["rope_local_base_freq"] == 1e4
    assert said["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_a_model_without_rotary_settings_gets_none():
    assert rope({"hidden_size": 8}) == {}


def test_settings_inside_a_text_config_are_completed_too():
    source = {"model_type": "x", "text_config": {"torch_dtype": "float16", "auto_map": {"A": "b"}}}
    inner = {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    said = settings(source, {"text_config": inner})["text_config"]
    assert said["dtype"] == said["torch_dtype"] == "float16"
    assert said["rope_theta"] == 1e4
    assert "auto_map" not in said


@pytest.mark.parametrize(
    "scaling", [None, LLAMA3, {"rope_type": "yarn", "factor": 4.0}, {"type": "linear", "factor": 2}]
)
@pytest.mark.parametrize("old", [True, False], ids=["saved by 4", "saved by 5"])
def test_transformers_5_reads_from_our_config_what_it_reads_from_the_source(
    export, source, tmp_path, scaling, old
):
    given = dict(source.config)
    del given["rope_parameters"]
    if old:
        given |= {"rope_theta": 70000.0, "rope_scaling": scaling}
    else:
        given["rope_parameters"] = {"rope_type": "default"} | (scaling or {}) | {"rope_theta": 7e4}
    read = AutoConfig.for_model(**given)
    ours = settings(given, read.to_dict())
    (tmp_path / "config.json").write_text(json.dumps(ours))
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.rope_parameters == read.rope_parameters
    assert ours["rope_theta"] == 70000.0
    assert (ours["rope_scaling"] is None) == (scaling is None)


def test_an_export_of_another_method_needs_no_file_of_modelopts(export, source, tmp_path):
    shutil.copytree(export("fp8").path, tmp_path / "out")
    (tmp_path / "out" / "hf_quant_config.json").unlink()
    finish(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == 10000.0
    assert config["quantization_config"]["quant_algo"] == "FP8"
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()


def test_every_file_that_a_reader_looks_for_is_carried_over(export, source, tmp_path):
    shutil.copytree(source.path, tmp_path / "source")
    shutil.copytree(export("fp8").path, tmp_path / "out")
    extra = ["chat_template.jinja", "special_tokens_map.json", "LICENSE", "tokenizer.model"]
    nested = "additional_chat_templates/tool.jinja"
    (tmp_path / "source" / "additional_chat_templates").mkdir()
    for name in (*extra, nested, "modeling_custom.py", "training_args.bin", "README.md"):
        (tmp_path / "source" / name).write_text(name)
    (tmp_path / "source" / "generation_config.json").unlink()
    before = Tree.of(tmp_path / "out")
    finish(type(source).open(tmp_path / "source"), tmp_path / "out")
    after = {artifact.path for artifact in Tree.of(tmp_path / "out").artifacts}
    kept = {artifact.path for artifact in before.artifacts} - {"generation_config.json"}
    assert after == kept | {*extra, nested}
    assert "config.json" not in COPIED
