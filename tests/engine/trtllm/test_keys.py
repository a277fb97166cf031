"""What an engine depends on is in its key, and nothing else is."""

import json
from dataclasses import replace

import pytest

from builders.bundle import fingerprint
from builders.engine.trtllm.keys import cache_inputs
from builders.errors import UsageError
from builders.formats import Format
from fakes.trtllm.settings import H100, settings

ROOT = "a" * 64
VERSIONS = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}


def key(asked=None, root=ROOT, versions=VERSIONS, gpu=H100):
    return fingerprint(cache_inputs(asked or settings(), root, versions, gpu))


@pytest.mark.parametrize(
    "other",
    [
        {"asked": settings(max_batch_size=16)},
        {"asked": settings(max_seq_len=8192)},
        {"asked": settings(tp=2)},
        {"asked": settings(pp=2)},
        {"asked": settings(kv_cache=Format.BF16)},
        {"asked": settings(quant_algo="", weights=Format.BF16, activations=Format.BF16)},
        {"asked": settings(dtype=Format.FP16)},
        {"asked": settings(architecture="MistralForCausalLM")},
        {"asked": settings(overrides=(("gemm_plugin", "fp8"),))},
        {"root": "b" * 64},
        {"versions": VERSIONS | {"tensorrt": "10.15.0"}},
        {"gpu": replace(H100, name="NVIDIA H100 PCIe")},
    ],
)
def test_what_changes_the_engine_changes_its_key(other):
    assert key(**other) != key()


def test_what_does_not_change_the_engine_does_not_change_its_key():
    assert key(settings(overrides=(("log_level", "verbose"),))) == key()
    assert key(settings()) == key()


def test_the_inputs_are_json_without_paths():
    text = json.dumps(cache_inputs(settings(), ROOT, VERSIONS, H100))
    assert "/" not in text


@pytest.mark.parametrize("root", ["", "a" * 63, "A" * 64, "/weights"])
def test_what_is_no_digest_is_refused(root):
    with pytest.raises(UsageError, match="no digest of weights"):
        cache_inputs(settings(), root, VERSIONS, H100)
