"""A damaged checkpoint is examined all the same, and each defect of its files is named."""

import json
import os

import pytest

from builders.autopsy import inspect
from builders.errors import UsageError
from fakes.checkpoints import read_safetensors, write_safetensors
from fakes.quantized import rules, sound


@pytest.fixture
def sharded(tmp_path):
    """A sound checkpoint in three shards with an index."""
    path, fake = tmp_path / "m", sound("unquantized")
    fake.write(path)
    (path / "model.safetensors").unlink()
    names = list(fake.tensors)
    index = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: fake.tensors[name] for name in names[number::3]}
        write_safetensors(path / file, part)
        index |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return path


def reindex(path, change):
    file = path / "model.safetensors.index.json"
    data = json.loads(file.read_text())
    change(data["weight_map"])
    file.write_text(json.dumps(data))


def test_shards_with_their_index_are_sound(sharded):
    assert rules(inspect(sharded)) == {}


def test_a_missing_shard_is_named_and_nothing_that_follows_from_it(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert rules(inspect(sharded)) == {"shard-missing": "model-00002-of-00003.safetensors"}


def test_a_missing_shard_is_named_without_an_index_too(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    (sharded / "model-00003-of-00003.safetensors").unlink()
    found = rules(inspect(sharded))
    assert found["shard-missing"] == "model-00003-of-00003.safetensors"
    assert found["index-missing"] == "model.safetensors.index.json"


def test_a_truncated_shard_is_named_and_nothing_that_follows_from_it(sharded):
    file = sharded / "model-00001-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert rules(inspect(sharded)) == {"shard-damaged": file.name}


def test_an_index_that_disagrees_with_the_shards_is_found(sharded):
    def change(index):
        index["model.norm.weight"] = "model-00001-of-00003.safetensors"
        index["ghost.weight"] = "model-00001-of-00003.safetensors"
        del index["lm_head.weight"]

    reindex(sharded, change)
    found = [(f.where, f.what) for f in inspect(sharded).findings]
    assert (
        "ghost.weight",
        "is not in model-00001-of-00003.safetensors, where the index has it",
    ) in found
    assert any(
        where == "model.norm.weight" and "not in model-00001" in what for where, what in found
    )
    assert any(where == "lm_head.weight" and "does not name it" in what for where, what in found)


def test_a_tensor_in_two_shards_is_found(sharded):
    file = sharded / "model-00001-of-00003.safetensors"
    tensors = read_safetensors(file)
    write_safetensors(
        file, tensors | read_safetensors(sharded / "model-00002-of-00003.safetensors")
    )
    assert set(rules(inspect(sharded))) == {"index-disagrees"}


def test_weights_that_no_reader_loads_warn(sharded):
    write_safetensors(sharded / "consolidated.safetensors", {})
    found = inspect(sharded)
    assert rules(found) == {"file-unread": "consolidated.safetensors"}
    assert found.sound


def test_tensors_that_overlap_or_leave_a_hole_are_found(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    file = path / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    second = list(header)[2]
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    header[second]["data_offsets"] = [0, size]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    found = [f for f in inspect(path).findings if f.rule == "tensors-overlap"]
    assert {f.what.split(" in ")[0] for f in found} == {
        "overlaps the tensor before it",
        "follows bytes of no tensor",
    }


def test_a_tensor_without_data_is_found(spoiled):
    def empty(fake):
        dtype, data = fake.tensors["model.norm.weight"]
        fake.tensors["model.norm.weight"] = (dtype, data[:0])

    assert rules(spoiled("unquantized", empty)) == {"tensor-empty": "model.norm.weight"}


def test_files_that_only_their_owner_can_read_warn(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    (path / "model.safetensors").chmod(0o600)
    found = inspect(path)
    assert rules(found) == {"file-private": "model.safetensors"}
    assert "mode 600" in found.findings[0].what


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_that_nobody_can_read_stop_the_line(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    (path / "generation_config.json").write_text("{}")
    (path / "generation_config.json").chmod(0)
    assert rules(inspect(path))["file-unreadable"] == "generation_config.json"


def test_code_and_pickles_in_the_directory_warn(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    (path / "modeling_custom.py").write_text("")
    (path / "pytorch_model.bin").write_text("")
    found = inspect(path)
    assert rules(found) == {"remote-code": "modeling_custom.py", "pickle": "pytorch_model.bin"}
    assert found.sound


def test_a_missing_tokenizer_stops_the_line(tmp_path):
    path = sound("unquantized").write(tmp_path / "m")
    (path / "tokenizer.json").unlink()
    assert set(rules(inspect(path))) == {"tokenizer-missing"}


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda path: (path / "config.json").unlink(), "no such file"),
        (lambda path: (path / "config.json").write_text("{"), "not valid JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda path: (path / "model.safetensors").unlink(), "no safetensors weights"),
    ],
)
def test_what_cannot_be_examined_at_all_is_a_usage_error(tmp_path, break_it, complaint):
    path = sound("unquantized").write(tmp_path / "m")
    break_it(path)
    with pytest.raises(UsageError, match=complaint):
        inspect(path)


def test_a_path_that_is_no_directory_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such checkpoint directory"):
        inspect(tmp_path / "nowhere")
