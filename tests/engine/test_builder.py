"""An engine is the checkpoint's files and a description, made in milliseconds without torch."""

import json
import shutil
import subprocess
import sys

import pytest

from builders.bundle import Tree
from builders.engine import EngineSettings, build, scorer
from builders.engine.description import Description
from builders.errors import ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from fakes.checkpoints import tiny_llama

FP8 = {"kv_cache": Format.FP8}


def built(source, out, *, owned=False, **settings):
    chosen = EngineSettings(**({"context": 64} | settings))
    build("embedded", source, chosen, out, silent, owned=owned)
    return out


def test_an_engine_holds_the_checkpoint_and_says_how_it_runs(checkpoint, tmp_path):
    engine = built(checkpoint, tmp_path, concurrency=2)
    assert Description.read(engine).settings == EngineSettings(context=64, concurrency=2)
    names = {path.name for path in (engine / "checkpoint").iterdir()}
    assert names == {path.name for path in checkpoint.iterdir()}


def test_the_stores_files_are_linked_not_copied(checkpoint, tmp_path):
    engine = built(checkpoint, tmp_path, owned=True)
    weights = engine / "checkpoint" / "model.safetensors"
    assert weights.samefile(checkpoint / "model.safetensors")


def test_a_users_files_keep_their_mode_and_are_nobody_elses(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "users")
    (source / "config.json").chmod(0o640)
    engine = built(source, tmp_path / "engine")
    for copy in (engine / "checkpoint").iterdir():
        assert copy.read_bytes() == (source / copy.name).read_bytes()
        copy.chmod(0o444)  # as the store does
    assert {path.stat().st_nlink for path in source.iterdir()} == {1}
    assert (source / "config.json").stat().st_mode & 0o777 == 0o640


def test_what_a_link_in_a_cache_points_to_is_placed(checkpoint, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in checkpoint.iterdir():
        (cache / path.name).symlink_to(path)
    engine = built(cache, tmp_path / "engine")
    assert Tree.of(engine).artifacts


def test_equal_inputs_make_equal_trees(checkpoint, tmp_path):
    first, second = (Tree.of(built(checkpoint, tmp_path / name)) for name in ("a", "b"))
    assert first.digest == second.digest


def test_pickles_notes_and_hidden_files_stay_behind(fp8, tmp_path):
    source = fp8.write(tmp_path / "source")
    for name in ("pytorch_model.bin", "README.md", ".gitattributes"):
        (source / name).write_bytes(b"x")
    engine = built(source, tmp_path / "engine", **FP8)
    names = {path.name for path in (engine / "checkpoint").iterdir()}
    assert "hf_quant_config.json" in names
    assert not names & {"pytorch_model.bin", "README.md", ".gitattributes"}


def test_building_loads_no_heavy_library(checkpoint, tmp_path):
    code = f"""
import sys
from pathlib import Path
from builders.engine import EngineSettings, build
from builders.progress import silent
source, out = Path({str(checkpoint)!r}), Path({str(tmp_path)!r})
build("embedded", source, EngineSettings(context=8), out, silent)
sys.exit(bool({{"torch", "transformers", "numpy", "safetensors"}} & sys.modules.keys()))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_runtime_gets_a_hint(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="unknown runtime") as caught:
        build("embeded", checkpoint, EngineSettings(context=8), tmp_path, silent)
    assert "embedded" in caught.value.hint


def test_a_scorer_is_opened_by_what_the_engine_says_and_closed_after(checkpoint, make_engine):
    with scorer(make_engine(checkpoint)) as opened:
        assert opened.context == 128
        assert opened.vocabulary == 4096
        assert opened.prefix == 0
        assert len(opened.score([opened.tokenize("def f(x):")])) == 1


def test_a_context_beyond_the_models_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="made for 128 tokens, not 129"):
        built(checkpoint, tmp_path, context=129)


@pytest.mark.parametrize("dtype", [Format.FP8, Format.NVFP4])
def test_only_plain_formats_compute(checkpoint, tmp_path, dtype):
    with pytest.raises(UsageError, match="no format to compute in"):
        built(checkpoint, tmp_path, dtype=dtype)


def test_a_calibrated_kv_cache_must_be_used(fp8, tmp_path):
    with pytest.raises(ToolError, match="calibrated for a KV cache in fp8, asked for bf16"):
        built(fp8.write(tmp_path / "source"), tmp_path / "engine")


def test_a_kv_cache_that_nobody_computes_is_refused(checkpoint, tmp_path):
    with pytest.raises(ToolError, match="no KV cache in int8"):
        built(checkpoint, tmp_path, kv_cache=Format.INT8)


def test_a_declared_kv_cache_that_nobody_computes_is_refused(fp8, tmp_path):
    fp8.declared["kv_cache_quant_algo"] = "INT8"
    with pytest.raises(ToolError, match="no KV cache in int8"):
        built(fp8.write(tmp_path / "source"), tmp_path / "engine", **FP8)


def test_a_kv_cache_in_blocks_needs_heads_that_divide(tmp_path):
    source = tiny_llama(tmp_path / "source", hidden=32)
    with pytest.raises(ToolError, match="heads of 8 values do not divide into the blocks of 16"):
        built(source, tmp_path / "engine", kv_cache=Format.NVFP4)


def test_codes_that_nothing_declares_are_refused(fp8, tmp_path):
    source = fp8.write(tmp_path / "source")
    (source / "hf_quant_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ToolError, match="down_proj is stored quantized, but nothing declares it"):
        built(source, tmp_path / "engine", **FP8)


def test_a_declaration_in_config_json_alone_is_enough(fp8, tmp_path):
    source = fp8.write(tmp_path / "source")
    (source / "hf_quant_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] |= {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", "model.embed_tokens"],
    }
    (source / "config.json").write_text(json.dumps(config))
    built(source, tmp_path / "engine", **FP8)


@pytest.mark.parametrize("text", ["{", "{}", '{"quantization": 3}', "[]"])
def test_a_damaged_declaration_names_its_file(fp8, tmp_path, text):
    source = fp8.write(tmp_path / "source")
    (source / "hf_quant_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"hf_quant_config.json"):
        built(source, tmp_path / "engine", **FP8)


def test_an_algorithm_that_nobody_knows_is_named(fp8, tmp_path):
    fp8.declared.update(quant_algo="FP6")
    with pytest.raises(UsageError, match="'FP6' is not known here"):
        built(fp8.write(tmp_path / "source"), tmp_path / "engine", **FP8)


PROJ = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda e: e.tensors.pop(f"{PROJ}.input_scale"), f"{PROJ}.input_scale is missing"),
        (lambda e: e.tensors.pop(f"{PROJ}.weight_scale"), f"{PROJ}.weight_scale is missing"),
        (lambda e: e.tensors.pop(f"{PROJ}.weight"), "has no weight beside it"),
        (lambda e: e.declared.update(quant_algo="NVFP4"), "weight is F8_E4M3, not U8"),
        (lambda e: e.tensors.update({f"{PROJ}.weight_scale_2": e.tensors[f"{PROJ}.input_scale"]}),
         "weight_scale_2 has no place in this format"),
        (lambda e: e.declared["exclude_modules"].append("*up_proj"), "leaves it out"),
        (lambda e: e.tensors.update({f"{PROJ}.weight_scale": e.tensors["model.norm.weight"]}),
         "weight_scale is BF16, not F32"),
    ],
)  # fmt: skip
def test_headers_that_contradict_the_declaration_are_refused(fp8, tmp_path, spoil, said):
    spoil(fp8)
    with pytest.raises(ToolError, match=said):
        built(fp8.write(tmp_path / "source"), tmp_path / "engine", **FP8)


def test_every_layer_may_have_its_own_algorithm(fp8, tmp_path):
    names = [name.removesuffix(".weight") for name in fp8.tensors if name.endswith("_proj.weight")]
    fp8.declared |= {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {name: {"quant_algo": "FP8"} for name in names},
    }
    del fp8.declared["exclude_modules"]
    built(fp8.write(tmp_path / "source"), tmp_path / "engine", **FP8)
    del fp8.declared["quantized_layers"][names[0]]
    with pytest.raises(ToolError, match="leaves it out"):
        built(fp8.write(tmp_path / "other"), tmp_path / "engine2", **FP8)


def test_a_full_disk_says_what_to_do(checkpoint, tmp_path):
    (tmp_path / "engine").write_text("a file where the directory should be")
    with pytest.raises(ToolError, match="building"):
        built(checkpoint, tmp_path / "engine")


def test_the_description_names_the_algorithm(fp8, tmp_path):
    engine = built(fp8.write(tmp_path / "source"), tmp_path / "engine", **FP8)
    assert json.loads((engine / "engine.json").read_text())["quantization"] == "FP8"
