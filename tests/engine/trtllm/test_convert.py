"""What ModelOpt is told to export, and what it cannot."""

import ast
import importlib.util
from pathlib import Path

import pytest

from builders.engine.trtllm.convert import DECODERS, EXPORTED, convert, export_refusals
from builders.engine.trtllm.settings import ALGORITHMS
from builders.errors import PlanError
from builders.formats import Format
from fakes.trtllm.settings import plain, settings


def test_a_llama_is_exported_for_every_rank():
    made = convert(settings(tp=2, pp=4))
    assert (made.decoder_type, made.dtype) == ("llama", "bfloat16")
    assert (made.inference_tensor_parallel, made.inference_pipeline_parallel) == (2, 4)


def test_half_precision_is_kept_where_it_is_asked_for():
    assert convert(plain(dtype=Format.FP16)).dtype == "float16"


@pytest.mark.parametrize(
    ("architecture", "decoder"),
    [
        ("MistralForCausalLM", "llama"),
        ("Qwen2ForCausalLM", "qwen"),
        ("Gemma2ForCausalLM", "gemma2"),
    ],
)
def test_the_decoder_follows_the_architecture(architecture, decoder):
    assert convert(settings(architecture=architecture)).decoder_type == decoder


def modelopt_table():
    """Read ModelOpt's own table from its source, without the seconds that importing it takes."""
    spec = importlib.util.find_spec("modelopt")
    if spec is None:
        pytest.skip("nvidia-modelopt is not installed")
    source = Path(spec.submodule_search_locations[0], "torch", "export", "model_utils.py")
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        targets = getattr(statement, "targets", [])
        if [getattr(target, "id", "") for target in targets] == ["MODEL_NAME_TO_TYPE"]:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{source} has no MODEL_NAME_TO_TYPE")


@pytest.mark.parametrize("architecture", sorted(DECODERS))
def test_the_decoders_are_those_of_modelopt(architecture):
    table = modelopt_table()
    found = (kind for part, kind in table.items() if part.lower() in architecture.lower())
    assert next(found, None) == DECODERS[architecture]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"architecture": "LamaForCausalLM"}, "no TensorRT-LLM checkpoint of LamaForCausalLM"),
        ({"quant_algo": "MXFP8"}, "can hold MXFP8"),
        ({"quant_algo": "FP8_BLOCK_SCALES"}, "can hold FP8_BLOCK_SCALES"),
        ({"dtype": Format.FP32}, "not float32"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_remedy(changed, reason):
    with pytest.raises(PlanError, match=reason):
        convert(settings(**changed))
    assert all(one.hint for one in export_refusals(settings(**changed)))


def test_every_exported_algorithm_is_one_of_tensorrt_llms():
    assert set(EXPORTED) <= set(ALGORITHMS)
