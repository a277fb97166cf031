"""Settings, requests and machines that tests change one knob of."""

from dataclasses import replace

from builders import recipe as recipes
from builders.engine.trtllm.machine import Gpu, Machine
from builders.engine.trtllm.request import TrtllmSettings
from builders.engine.trtllm.settings import BuildSettings
from builders.formats import Format
from builders.tiers import GIB, TIERS

H100 = Gpu(name="NVIDIA H100 80GB HBM3", sm=90, memory_bytes=80 * GIB)


def settings(**changed) -> BuildSettings:
    """FP8 weights and cache of a Llama on an H100, eight requests of 4096 tokens."""
    fp8 = {
        "architecture": "LlamaForCausalLM",
        "sm": 90,
        "weights": Format.FP8,
        "activations": Format.FP8,
        "kv_cache": Format.FP8,
        "quant_algo": "FP8",
        "max_batch_size": 8,
        "max_seq_len": 4096,
    }
    return BuildSettings(**(fp8 | changed))


def plain(**changed) -> BuildSettings:
    """The same in BF16."""
    bf16 = dict.fromkeys(("weights", "activations", "kv_cache"), Format.BF16)
    return settings(**(bf16 | {"quant_algo": ""} | changed))


def request_for(recipe="fp8", tier="h100", **changed) -> TrtllmSettings:
    """What the pipeline would hand over for a recipe on a tier."""
    chosen = recipes.shipped()[recipe]
    kv_cache = changed.pop("kv_cache", chosen.kv_cache)
    base = TrtllmSettings(
        context=4096,
        concurrency=8,
        kv_cache=kv_cache,
        recipe=replace(chosen, kv_cache=kv_cache),
        tier=TIERS[tier],
        version="1.2.1",
    )
    return replace(base, **changed)


def host(gpus=1, *, gpus_=(), **changed) -> Machine:
    """A machine that has TensorRT-LLM 1.2.1 and as many H100s, or the GPUs given."""
    base = Machine(
        gpus=gpus_ or (H100,) * gpus,
        driver="590.44.01",
        cuda="13.1",
        tensorrt_llm="1.2.1",
        tensorrt="10.14.1.48",
    )
    return replace(base, **changed)
