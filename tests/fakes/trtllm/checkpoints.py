"""TensorRT-LLM checkpoints and engines in their published shape, with a few bytes for weights."""

import json
from pathlib import Path


def trtllm_config(**changed):
    """Return a checkpoint's config.json; ``tp``, ``pp``, ``quant_algo`` and ``kv`` are short."""
    tp, pp = changed.pop("tp", 1), changed.pop("pp", 1)
    quantization = {
        "quant_algo": changed.pop("quant_algo", None),
        "kv_cache_quant_algo": changed.pop("kv", None),
        "group_size": 128,
    }
    return {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "logits_dtype": "float16",
        "vocab_size": 4096,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
        "quantization": quantization,
    } | changed


def write_checkpoint(path: Path, **changed) -> Path:
    """Write a TensorRT-LLM checkpoint into a new directory and return it."""
    path.mkdir(parents=True)
    config = trtllm_config(**changed)
    (path / "config.json").write_text(json.dumps(config))
    for rank in range(config["mapping"]["world_size"]):
        (path / f"rank{rank}.safetensors").write_bytes(b"weights of rank %d" % rank)
    return path


def engine_config(version="1.2.1", build=None, **changed):
    """Return an engine's config.json."""
    plugins = {"gemm_plugin": None, "use_paged_context_fmha": True, "multiple_profiles": True}
    limits = {"max_batch_size": 8, "max_seq_len": 4096, "max_num_tokens": 8192}
    return {
        "version": version,
        "pretrained_config": trtllm_config(**changed),
        "build_config": limits
        | {"kv_cache_type": "PAGED", "plugin_config": plugins}
        | (build or {}),
    }


def write_engine(path: Path, **changed) -> Path:
    """Write an engine directory and return it."""
    path.mkdir(parents=True)
    config = engine_config(**changed)
    (path / "config.json").write_text(json.dumps(config))
    for rank in range(config["pretrained_config"]["mapping"]["world_size"]):
        (path / f"rank{rank}.engine").write_bytes(b"engine of rank %d" % rank)
    return path
