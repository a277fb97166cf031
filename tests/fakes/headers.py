"""Checkpoints of the real sizes of well-known models, without a byte of weights.

The safetensors header is complete and the file as long as it says, but sparse: 140 GB take a few
kilobytes of disk. Shapes are those of the models' public config.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path

BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}

LLAMA3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LLAMA3_70B = LLAMA3_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
QWEN3_32B = LLAMA3_8B | {
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}


def model(path: Path, config: Mapping[str, object], *, experts: int = 0, **changes: object) -> Path:
    """Write a Llama-shaped checkpoint of this config; ``experts`` makes each MLP a mixture."""
    settings = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config, **changes}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(settings))
    (path / "tokenizer.json").write_text("{}")
    write(path / "model.safetensors", dict(shapes(settings, experts)))
    return path


def shapes(config: Mapping[str, object], experts: int = 0):
    """Yield the name and shape of every tensor of a Llama of this config."""
    number = {key: value for key, value in config.items() if isinstance(value, int)}
    hidden, wide = number["hidden_size"], number["intermediate_size"]
    heads, kv, dim = (
        number[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    yield "model.embed_tokens.weight", (number["vocab_size"], hidden)
    for layer in range(number["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (heads * dim, hidden)
        yield f"{at}.self_attn.k_proj.weight", (kv * dim, hidden)
        yield f"{at}.self_attn.v_proj.weight", (kv * dim, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, heads * dim)
        blocks = [f"mlp.experts.{n}" for n in range(experts)] or ["mlp"]
        for block in blocks:
            yield f"{at}.{block}.gate_proj.weight", (wide, hidden)
            yield f"{at}.{block}.up_proj.weight", (wide, hidden)
            yield f"{at}.{block}.down_proj.weight", (hidden, wide)
        if experts:
            yield f"{at}.mlp.gate.weight", (experts, hidden)
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (number["vocab_size"], hidden)


def write(file: Path, tensors: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """Write a header that is true to the last byte, and a file of that length full of holes."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        begin, size = end, BYTES[dtype]
        for side in shape:
            size *= side
        end = begin + size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
