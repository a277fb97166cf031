"""Layers that predict further tokens are kept as they are, whichever way the rest is quantized."""

import json

import pytest

from builders import autopsy
from builders.checkpoint import INDEX, Checkpoint
from builders.engine import EngineSettings
from builders.engine.embedded.loader import load
from builders.progress import silent
from builders.quantize import further, memory, quantize
from builders.quantize.memory import Way, Workspace
from builders.quantize.shapes import is_further, quantized
from builders.recipe import Calibration, Memory, shipped
from fakes.checkpoints import read_safetensors, tiny_glm4_moe, tiny_llama, write_safetensors

AT = "model.layers.46."
TEXT = '{"text": "Return the item of the list."}\n'


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Checkpoint.open(tiny_glm4_moe(tmp_path_factory.mktemp("glm") / "m"))


def tensors(path):
    found = {}
    for shard in sorted(path.glob("*.safetensors")):
        found |= read_safetensors(shard)
    return found


def same(one, other):
    return one[0] == other[0] and one[1].tobytes() == other[1].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "asked"),
    [("mxfp8", Memory.AUTO), ("fp8", Memory.RESIDENT), ("fp8", Memory.STREAMED)],
)
def test_they_are_kept_byte_for_byte_declared_and_loaded_over(source, tmp_path, recipe, asked):
    (tmp_path / "texts.jsonl").write_text(TEXT)
    out = tmp_path / "out"
    out.mkdir()
    texts = Calibration(files=(tmp_path / "texts.jsonl",))
    workspace = Workspace(memory=asked)
    quantize(source, shipped()[recipe], texts, out, silent, workspace=workspace)
    exported, before = tensors(out), tensors(source.path)
    names = [name for name in before if name.startswith(AT)]
    assert len(names) == 2
    assert all(same(exported[name], before[name]) for name in names)
    found = autopsy.inspect(out, base=source)
    assert found.sound
    assert found.recognized.storage(f"{AT}eh_proj") is None
    assert found.recognized.storage("model.layers.45.mlp.experts.0.up_proj") is not None
    load(out, EngineSettings(context=32, kv_cache=found.recognized.kv_cache), "cpu")


def test_a_router_bias_in_float32_does_not_keep_a_model_from_being_streamed(source):
    recipe = shipped()["mxfp8"]
    assert {info.dtype for info in source.tensors.values()} == {"BF16", "F32"}
    assert memory.choose(source, recipe, Memory.AUTO) is Way.TENSORS
    assert not any(is_further(name, source) for name in quantized(source, recipe))


def test_they_get_a_shard_of_their_own_and_an_index_names_all(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    rest = {n: t for n, t in tensors(source.path).items() if not n.startswith(AT)}
    names = sorted(rest)
    parts = names[: len(names) // 2], names[len(names) // 2 :]
    for number, part in enumerate(parts, start=1):
        file = out / f"model-{number:05d}-of-00002.safetensors"
        write_safetensors(file, {name: rest[name] for name in part})
    further.keep(source, out)
    index = json.loads((out / INDEX).read_text())
    assert set(index["weight_map"].values()) == {
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    }
    assert index["weight_map"].keys() == source.tensors.keys()
    assert index["metadata"]["total_size"] == source.weight_bytes
    found = tensors(out)
    assert all(same(found[name], before) for name, before in tensors(source.path).items())


def test_an_export_that_has_all_is_left_as_it_is(tmp_path):
    path = tiny_llama(tmp_path / "m")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    further.keep(Checkpoint.open(path), path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("model.layers.46.eh_proj", True),
        ("model.layers.45.mlp.up_proj", False),
        ("model.language_model.layers.47.mlp.up_proj.weight", True),
        ("vision_tower.layers.50.mlp.up_proj", False),
        ("mtp.fc.weight", True),
        ("model.mtp_block.0.mlp.up_proj", True),
        ("model.layers.3.smtp.proj", False),
    ],
)
def test_they_are_told_by_number_or_name(source, name, further):
    assert is_further(name, source) is further
