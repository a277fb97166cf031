"""Engines and checkpoints that others made are read into our nouns, or refused by file and key."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.engine.trtllm.adopt import adopt
from builders.errors import UsageError
from builders.formats import Format
from fakes.trtllm.checkpoints import engine_config, write_checkpoint, write_engine


def test_an_engine_is_read(tmp_path):
    found = adopt(write_engine(tmp_path / "e", quant_algo="FP8", kv="FP8", tp=2, pp=2))
    assert (found.kind, found.version, found.architecture) == (
        "engine", "1.2.1", "LlamaForCausalLM",
    )  # fmt: skip
    assert (found.weights, found.activations, found.kv_cache) == (Format.FP8,) * 3
    assert (found.tp, found.pp, found.world, found.dtype) == (2, 2, 4, Format.BF16)
    assert (found.max_batch_size, found.max_seq_len, found.max_num_tokens) == (8, 4096, 8192)
    assert found.files == (
        "config.json", "rank0.engine", "rank1.engine", "rank2.engine", "rank3.engine",
    )  # fmt: skip
    assert len(found.config_digest) == 64


def test_a_checkpoint_is_read(tmp_path):
    found = adopt(write_checkpoint(tmp_path / "c", quant_algo="W4A16_AWQ", dtype="float16"))
    assert (found.kind, found.version, found.max_batch_size) == ("checkpoint", "", 0)
    assert (found.weights, found.activations) == (Format.INT4, Format.BF16)
    assert (found.kv_cache, found.dtype) == (Format.BF16, Format.FP16)


def test_formats_that_differ_by_layer_are_said_to(tmp_path):
    found = adopt(write_engine(tmp_path / "e", quant_algo="MIXED_PRECISION"))
    assert (found.weights, found.activations) == (None, None)


@pytest.mark.parametrize("version", ["0.9.0", "0.20.0", "1.0.3.2510", "1.3.0rc20"])
def test_every_version_that_compiled_engines_is_taken(tmp_path, version):
    assert adopt(write_engine(tmp_path / "e", version=version)).version == version


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": "1.4.0rc1"}, "no TensorRT-LLM 1.4.0rc1 ever compiled"),
        ({"version": "new"}, "'new' is not a version"),
        ({"quant_algo": "FP7"}, "quant_algo 'FP7'"),
        ({"kv": "FP7"}, "kv_cache_quant_algo 'FP7'"),
        ({"dtype": "fp32"}, "dtype cannot be 'fp32'"),
        ({"dtype": None}, "dtype must be a text"),
        ({"architecture": "A'; B"}, "architecture cannot be"),
        ({"architecture": 3}, "architecture must be a text"),
        ({"mapping": {"tp_size": 0}}, "tp_size must be a whole number"),
        ({"mapping": {"tp_size": 2, "world_size": 4}}, "world_size is 4, but tp 2"),
        ({"mapping": {"cp_size": 2}}, "context parallelism of 2"),
        ({"mapping": "x"}, "must be a whole number"),
        ({"build": {"max_batch_size": "8"}}, "max_batch_size must be a whole number"),
        ({"build": {"max_seq_len": None}}, "max_seq_len must be a whole number"),
        ({"build": {"max_num_tokens": True}}, "max_num_tokens must be a whole number"),
    ],
)
def test_a_broken_engine_is_refused_by_key(tmp_path, changed, reason):
    engine = tmp_path / "e"
    engine.mkdir()
    (engine / "config.json").write_text(json.dumps(engine_config(**changed)))
    (engine / "rank0.engine").write_bytes(b"engine")
    with pytest.raises(UsageError, match=reason) as caught:
        adopt(engine)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (
            lambda at: (at / "rank1.engine").unlink(),
            "2 ranks are configured, and the files are of 0",
        ),
        (lambda at: (at / "rank2.engine").write_bytes(b"x"), "files are of 0, 1, 2"),
        (lambda at: (at / "rank1.engine").write_bytes(b""), "rank1.engine: empty"),
        (lambda at: (at / "config.json").unlink(), "config.json: no such file"),
        (lambda at: (at / "config.json").write_text("{}"), "neither an engine's"),
        (lambda at: (at / "config.json").write_text('{"architectures": []}'), "a Hugging Face"),
        (
            lambda at: (at / "config.json").write_text('{"architecture": "LlamaForCausalLM"}'),
            "dtype is missing",
        ),
    ],
)
def test_a_directory_that_is_not_whole_is_refused(tmp_path, harm, reason):
    engine = write_engine(tmp_path / "e", tp=2)
    harm(engine)
    with pytest.raises(UsageError, match=reason) as caught:
        adopt(engine)
    assert caught.value.hint


def test_a_link_out_of_the_directory_is_refused(tmp_path):
    engine = write_engine(tmp_path / "e")
    (engine / "rank0.engine").unlink()
    (engine / "rank0.engine").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="a link"):
        adopt(engine)


def test_no_directory_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        adopt(tmp_path / "nowhere")


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_a_usage_error(tmp_path_factory, data):
    engine = tmp_path_factory.mktemp("e")
    (engine / "config.json").write_bytes(data)
    with pytest.raises(UsageError):
        adopt(engine)
