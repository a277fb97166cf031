"""Settings that some reader gets wrong are found: rotary forms, remote code, token numbers."""

import json

import pytest

from builders.autopsy import inspect
from fakes.quantized import rules, sound

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}


def settings(spoiled, **said):
    def change(fake):
        for key in ("rope_parameters", "rope_theta", "rope_scaling"):
            del fake.config[key]
        fake.config |= said

    return spoiled("unquantized", change)


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"rope_theta": 5e5, "rope_scaling": None}, "rope-old-only"),
        ({"rope_theta": 10000.0, "rope_scaling": LLAMA3}, "rope-old-only"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope-new-only"),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 10000.0}}, "rope-new-only"),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, "rope-disagrees"),
        (
            {"rope_parameters": {"rope_theta": 5e5, "factor": 2.0, "rope_type": "linear"}}
            | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope-disagrees",
        ),
    ],
)
def test_rotary_settings_that_one_reader_misses_are_found(spoiled, said, rule):
    found = settings(spoiled, **said)
    assert rules(found) == {rule: "config.json"}
    assert found.sound is (rule != "rope-disagrees")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {
            "rope_parameters": LLAMA3 | {"rope_theta": 5e5},
            "rope_theta": 5e5,
            "rope_scaling": LLAMA3,
        },
        {
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
            "rope_theta": 10000,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
            },
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
        {"text_config": {"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 7.0}},
    ],
)
def test_rotary_settings_that_every_reader_understands_are_sound(spoiled, said):
    assert rules(settings(spoiled, **said)) == {}


def test_code_named_in_the_settings_warns(spoiled):
    found = spoiled("unquantized", lambda fake: fake.config.update(auto_map={"AutoModel": "m.M"}))
    assert rules(found) == {"remote-code": "config.json"}


def test_a_tokenizer_class_of_transformers_5_warns(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    found = inspect(path)
    assert rules(found) == {"tokenizer-class": "tokenizer_config.json"}
    assert found.sound


def test_a_token_beyond_the_embedding_stops_the_line(spoiled):
    found = spoiled("unquantized", lambda fake: fake.config.update(vocab_size=4000))
    assert rules(found)["vocabulary-too-large"] == "tokenizer.json"
    assert "has token 4095, but the model has 4000 rows" in found.findings[0].what
    assert not found.sound


def test_an_added_token_beyond_the_embedding_only_warns(tmp_path):
    """google/gemma-3-1b-it: its <image_soft_token> is token 262144 of 262144 rows."""
    path = sound("unquantized").write(tmp_path / "m")
    data = json.loads((path / "tokenizer.json").read_text())
    data["added_tokens"].append({"id": 4096, "content": "<image_soft_token>"})
    (path / "tokenizer.json").write_text(json.dumps(data))
    found = inspect(path)
    assert rules(found) == {"vocabulary-too-large": "tokenizer.json"}
    assert "has the added token 4096, but the model has 4096 rows" in found.findings[0].what
    assert found.sound
