"""A checkpoint that is opened is complete and safe to read; anything else names the file."""

import json
import shutil

import pytest

from builders.checkpoint import Checkpoint, read_header
from builders.errors import UsageError
from fakes.checkpoints import tiny_llama


@pytest.fixture
def model(tmp_path):
    return tiny_llama(tmp_path / "model")


def test_facts_are_read_from_config_and_headers(model):
    checkpoint = Checkpoint.open(model)
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert (checkpoint.layers, checkpoint.heads, checkpoint.kv_heads) == (2, 4, 2)
    assert checkpoint.head_dim == 32
    assert checkpoint.context == 512
    assert checkpoint.weight_bytes == 2 * checkpoint.parameters
    assert checkpoint.quantization is None


def test_the_artifacts_are_every_file_but_notes(model):
    (model / "README.md").write_text("notes")
    names = {artifact.path for artifact in Checkpoint.open(model).artifacts}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "README.md" not in names


def test_the_identity_ignores_the_place_and_sees_a_changed_config(model, tmp_path):
    before = Checkpoint.open(model).identity
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    assert Checkpoint.open(moved).identity == before
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    assert Checkpoint.open(moved).identity != before


def test_numbers_of_a_multimodal_config_are_found_in_its_text_part(model):
    config = json.loads((model / "config.json").read_text())
    text = {"num_hidden_layers": config.pop("num_hidden_layers")}
    (model / "config.json").write_text(json.dumps(config | {"text_config": text}))
    assert Checkpoint.open(model).layers == 2


def spoil_truncate(model):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_header(model):
    (model / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{not json" + b" " * 100)


def spoil_tiny(model):
    (model / "model.safetensors").write_bytes(b"\1")


def spoil_shape(model):
    header = {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0" * 4)


def spoil_pickle(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def spoil_no_weights(model):
    (model / "model.safetensors").unlink()


def spoil_tokenizer(model):
    (model / "tokenizer.json").unlink()


def spoil_config(model):
    (model / "config.json").write_text("{")


def spoil_config_kind(model):
    (model / "config.json").write_text("[]")


def spoil_no_config(model):
    (model / "config.json").unlink()


def spoil_shard(model):
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model-00002-of-00002.safetensors"}})
    )


def spoil_index(model):
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lost.weight": "model.safetensors"}})
    )


def spoil_empty(model):
    shutil.rmtree(model)
    model.mkdir()


def spoil_missing(model):
    shutil.rmtree(model)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_truncate, r"model\.safetensors: truncated or damaged: it has \d+ bytes"),
        (spoil_header, r"model\.safetensors: truncated or damaged: the header"),
        (spoil_tiny, r"model\.safetensors: truncated or damaged: the header is cut off"),
        (spoil_shape, r"model\.safetensors: truncated or damaged: .*does not fill"),
        (spoil_pickle, r"pytorch_model\.bin: pickled weights"),
        (spoil_no_weights, "no safetensors weights"),
        (spoil_tokenizer, "no tokenizer"),
        (spoil_config, r"config\.json: not valid JSON"),
        (spoil_config_kind, r"config\.json: must hold a JSON object"),
        (spoil_no_config, r"config\.json: no such file"),
        (spoil_shard, r"model-00002-of-00002\.safetensors: the index names this shard"),
        (spoil_index, r"index\.json: tensor lost\.weight is in no shard"),
        (spoil_empty, "the checkpoint directory is empty"),
        (spoil_missing, "no such checkpoint directory"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_and_the_file_named(model, spoil, what):
    spoil(model)
    with pytest.raises(UsageError, match=what):
        Checkpoint.open(model)


def test_a_config_without_architecture_says_what_to_add(model):
    config = json.loads((model / "config.json").read_text())
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="architectures is missing") as caught:
        _ = Checkpoint.open(model).architecture
    assert "LlamaForCausalLM" in caught.value.hint


def test_a_header_gives_dtype_shape_and_place(model):
    info = read_header(model / "model.safetensors")["model.norm.weight"]
    assert (info.dtype, info.shape, info.bytes) == ("BF16", (128,), 256)


def test_weights_that_no_reader_loads_are_not_the_models(model):
    """Mistral ships its weights twice: once more in its own naming, beside those of the index."""
    before = Checkpoint.open(model)
    shutil.copy(model / "model.safetensors", model / "consolidated.safetensors")
    after = Checkpoint.open(model)
    assert after.tensors == before.tensors
    assert after.artifacts == before.artifacts
    (model / "model.safetensors").unlink()
    assert {file.name for file in Checkpoint.open(model).shards} == {"consolidated.safetensors"}


@pytest.mark.parametrize("key", ["num_attention_heads", "num_hidden_layers"])
def test_a_number_that_no_model_has_is_refused(model, key):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: 0}))
    found = Checkpoint.open(model)
    with pytest.raises(UsageError, match=f"{key} is 0, but a model has at least one"):
        _ = found.heads if key == "num_attention_heads" else found.layers


def test_a_tensor_in_two_shards_is_refused(model):
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        shutil.copy(model / "model.safetensors", model / name)
    (model / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"tensor \S+ is in model-00001\S+ and in model-00002"):
        Checkpoint.open(model)
