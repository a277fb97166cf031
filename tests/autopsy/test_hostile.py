"""Whatever a checkpoint says of itself, examining it ends in findings or in a usage error."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.autopsy import inspect
from builders.errors import UsageError
from fakes.quantized import SOUND, rules, sound

KEYS = [
    "quant_method", "quant_algo", "kv_cache_quant_algo", "exclude_modules", "ignore", "group_size",
    "bits", "w_bit", "q_group_size", "version", "zero_point", "sym", "dynamic", "lm_head", "format",
    "config_groups", "kv_cache_scheme", "weight_block_size", "modules_to_not_convert",
    "activation_scheme", "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
    "llm_int8_skip_modules", "quant_config", "quantized_layers", "sparsity_config", "skip_modules",
]  # fmt: skip
SETTINGS = [
    "rope_parameters", "rope_theta", "rope_scaling", "num_hidden_layers", "auto_map", "text_config",
    "tie_word_embeddings", "vocab_size", "architectures", "num_nextn_predict_layers",
]  # fmt: skip
WORDS = st.sampled_from(["FP8", "NVFP4", "lm_head", "re:(", "-:(", "*", "static", "nf4", "[", ""])
NUMBERS = st.integers(-4, 300) | st.just(10**30) | st.just(0.5)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(SOUND)),
    said=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
)
def test_any_declaration_ends_in_findings_or_a_usage_error(tmp_path_factory, name, said):
    fake = sound(name)
    fake.config.setdefault("quantization_config", {}).update(said)
    if "hf_quant_config.json" in fake.files:
        fake.files["hf_quant_config.json"]["quantization"] |= said
    small = {n: d for n, d in fake.tensors.items() if d[1].nbytes < 1 << 20}
    fake.tensors = small
    path = fake.write(tmp_path_factory.mktemp("hostile") / "m")
    with contextlib.suppress(UsageError):
        json.dumps(inspect(path).as_json(), allow_nan=False)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    said=st.dictionaries(
        st.sampled_from(SETTINGS),
        VALUES,
        max_size=4,
    )
)
def test_any_settings_end_in_findings(tmp_path_factory, base, said):
    fake = sound("fp8 dynamic")
    fake.config |= said
    assert (
        inspect(fake.write(tmp_path_factory.mktemp("hostile") / "m"), base=base).findings
        is not None
    )


@pytest.mark.parametrize(
    "shape", [(), (0,), (3,), (2, 3, 4), (1, 1), (0, 8)], ids=lambda shape: str(list(shape))
)
@pytest.mark.parametrize("name", SOUND)
def test_codes_of_any_shape_end_in_findings(tmp_path, name, shape):
    fake = sound(name)
    at = next(n for n in fake.tensors if "_proj" in n and fake.tensors[n][1].ndim > 1)
    dtype, data = fake.tensors[at]
    fake.tensors[at] = (dtype, np.ones(shape, data.dtype))
    json.dumps(inspect(fake.write(tmp_path / "m")).as_json())


def test_an_index_cannot_lead_out_of_the_directory(tmp_path):
    outside = sound("unquantized").write(tmp_path / "outside")
    path = sound("unquantized").write(tmp_path / "m")
    index = {"lm_head.weight": f"../{outside.name}/model.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = inspect(path)
    assert rules(found)["shard-missing"] == "../outside/model.safetensors"
    assert found.size.bytes == 0


@pytest.mark.parametrize("file", ["config.json", "quantize_config.json", "hf_quant_config.json"])
def test_json_that_nests_without_end_is_a_usage_error(tmp_path, file):
    path = sound("gptq beside").write(tmp_path / "m")
    (path / file).write_text("[" * 100_000)
    with pytest.raises(UsageError, match=file):
        inspect(path)
