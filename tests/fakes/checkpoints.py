"""Tiny random checkpoints, written in milliseconds without torch.

They have real weights in bfloat16, a real config.json, and the demo model's real tokenizer, so that
every tool of the road takes them for a model. Equal arguments write equal bytes.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]

MLP = ("gate_proj", "up_proj", "down_proj")
DEMO = Path(__file__).parents[2] / "demo" / "model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
VOCABULARY = 4096  # what the demo model's tokenizer has
_NUMPY = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8,
    "F8_E4M3": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of a decoder, so small that it is written and quantized in a moment."""

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    context: int = 512
    tied: bool = False

    def config(self, architecture: str, model_type: str) -> dict[str, object]:
        """Return what config.json says of them."""
        return {
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-05,
            "max_position_embeddings": self.context,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
            "tie_word_embeddings": self.tied,
        }

    def attention(self) -> dict[str, Shape]:
        """Return the four projections of one attention block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
        }

    def mlp(self, at: str = "mlp", names: tuple[str, ...] = MLP) -> dict[str, Shape]:
        """Return the three projections of one gated feed-forward block: gate, up, down."""
        up, down = (self.intermediate, self.hidden), (self.hidden, self.intermediate)
        return {f"{at}.{name}": shape for name, shape in zip(names, (up, up, down), strict=True)}

    def tensors(self, block: Mapping[str, Shape]) -> dict[str, Shape]:
        """Name every tensor of a decoder whose layers all have the modules of ``block``."""
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (self.hidden,))
        named: dict[str, Shape] = {"model.embed_tokens.weight": (VOCABULARY, self.hidden)}
        for layer in range(self.layers):
            for name, shape in {**block, **norms}.items():
                named[f"model.layers.{layer}.{name}.weight"] = shape
        named["model.norm.weight"] = (self.hidden,)
        return named if self.tied else named | {"lm_head.weight": (VOCABULARY, self.hidden)}


def tiny_llama(path: Path, *, seed: int = 0, heads: int = 4, hidden: int = 128, **knobs) -> Path:
    """Write a random Llama of these `Sizes` into the new directory ``path`` and return it."""
    sizes = Sizes(heads=heads, hidden=hidden, head_dim=hidden // heads, **knobs)
    config = sizes.config("LlamaForCausalLM", "llama") | {
        "attention_bias": False,
        "mlp_bias": False,
    }
    tensors = sizes.tensors(sizes.attention() | sizes.mlp())
    return write_checkpoint(path, config, tensors, seed=seed)


def tiny_qwen2(path: Path, *, seed: int = 0, **knobs) -> Path:
    """Write a random Qwen2: queries, keys and values have biases."""
    sizes = Sizes(**knobs)
    config = sizes.config("Qwen2ForCausalLM", "qwen2")
    del config["head_dim"]
    tensors = sizes.tensors(sizes.attention() | sizes.mlp())
    for layer in range(sizes.layers):
        for name in ("q_proj", "k_proj", "v_proj"):
            at = f"model.layers.{layer}.self_attn.{name}"
            tensors[f"{at}.bias"] = tensors[f"{at}.weight"][:1]
    return write_checkpoint(path, config, tensors, seed=seed)


def tiny_qwen3(path: Path, *, seed: int = 0, **knobs) -> Path:
    """Write a random Qwen3: norms on queries and keys, heads wider than hidden / heads."""
    sizes = Sizes(**({"heads": 2, "kv_heads": 1, "head_dim": 128, "tied": True} | knobs))
    config = sizes.config("Qwen3ForCausalLM", "qwen3") | {"attention_bias": False}
    tensors = sizes.tensors(sizes.attention() | _query_key_norms(sizes) | sizes.mlp())
    return write_checkpoint(path, config, tensors, seed=seed)


def tiny_gemma3(path: Path, *, seed: int = 0, **knobs) -> Path:
    """Write a random Gemma 3: norms around each block, on queries and keys too; tied embeddings."""
    sizes = Sizes(**({"tied": True} | knobs))
    rope = {"rope_theta": 10000.0, "rope_type": "default"}
    config = sizes.config("Gemma3ForCausalLM", "gemma3_text") | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": sizes.head_dim,
        "sliding_window": sizes.context,
        "layer_types": ["sliding_attention", "full_attention"] * (sizes.layers // 2),
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
    }
    del config["hidden_act"]
    block = sizes.attention() | _query_key_norms(sizes) | sizes.mlp()
    more = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return write_checkpoint(
        path, config, sizes.tensors(block | dict.fromkeys(more, (sizes.hidden,))), seed=seed
    )


def tiny_phi3(path: Path, *, seed: int = 0, **knobs) -> Path:
    """Write a random Phi 3: queries, keys and values are one projection, gate and up another."""
    sizes = Sizes(**knobs)
    config = sizes.config("Phi3ForCausalLM", "phi3") | {"pad_token_id": 0}
    del config["head_dim"]
    fused = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    block = {
        "self_attn.qkv_proj": (fused, sizes.hidden),
        "self_attn.o_proj": (sizes.hidden, sizes.heads * sizes.head_dim),
        "mlp.gate_up_proj": (2 * sizes.intermediate, sizes.hidden),
        "mlp.down_proj": (sizes.hidden, sizes.intermediate),
    }
    return write_checkpoint(path, config, sizes.tensors(block), seed=seed)


def tiny_mixtral(path: Path, *, seed: int = 0, experts: int = 4, **knobs) -> Path:
    """Write a random Mixtral: a router, and experts of which a token meets two."""
    sizes = Sizes(**knobs)
    config = sizes.config("MixtralForCausalLM", "mixtral") | {
        "num_local_experts": experts,
        "num_experts_per_tok": 2,
    }
    block = sizes.attention() | {"block_sparse_moe.gate": (experts, sizes.hidden)}
    for number in range(experts):
        block |= sizes.mlp(f"block_sparse_moe.experts.{number}", ("w1", "w3", "w2"))
    return write_checkpoint(path, config, sizes.tensors(block), seed=seed)


def tiny_qwen3_moe(path: Path, *, seed: int = 0, experts: int = 4, **knobs) -> Path:
    """Write a random Qwen3 with experts, of which a token meets two."""
    sizes = Sizes(**({"heads": 2, "kv_heads": 1, "head_dim": 128} | knobs))
    config = sizes.config("Qwen3MoeForCausalLM", "qwen3_moe") | {
        "attention_bias": False,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": sizes.intermediate,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
    }
    block = sizes.attention() | _query_key_norms(sizes) | {"mlp.gate": (experts, sizes.hidden)}
    for number in range(experts):
        block |= sizes.mlp(f"mlp.experts.{number}")
    return write_checkpoint(path, config, sizes.tensors(block), seed=seed)


def tiny_glm4_moe(path: Path, *, seed: int = 0, experts: int = 4, **knobs) -> Path:
    """Write a random GLM 4.5: experts in its last layer, and behind it one that predicts further.

    transformers knows the number of that layer, 46, and reads nothing of it.
    """
    sizes = Sizes(**({"layers": 46, "hidden": 64, "intermediate": 64, "tied": False} | knobs))
    last = sizes.layers - 1
    config = sizes.config("Glm4MoeForCausalLM", "glm4_moe") | {
        "moe_intermediate_size": sizes.intermediate,
        "n_routed_experts": experts,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": last,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": False,
    }
    tensors = sizes.tensors(sizes.attention() | sizes.mlp())
    mixture = sizes.mlp("mlp.shared_experts") | {"mlp.gate": (experts, sizes.hidden)}
    for number in range(experts):
        mixture |= sizes.mlp(f"mlp.experts.{number}")
    for name in [name for name in tensors if f"layers.{last}.mlp" in name]:
        del tensors[name]
    further = {"eh_proj": (sizes.hidden, 2 * sizes.hidden), "enorm": (sizes.hidden,)}
    tensors |= {f"model.layers.{last}.{name}.weight": shape for name, shape in mixture.items()}
    tensors |= {f"model.layers.{last + 1}.{name}.weight": s for name, s in further.items()}
    write_checkpoint(path, config, tensors, seed=seed)
    file = path / "model.safetensors"
    bias = {f"model.layers.{last}.mlp.gate.e_score_correction_bias": np.zeros(experts, np.float32)}
    write_safetensors(file, read_safetensors(file) | {n: ("F32", v) for n, v in bias.items()})
    return path


def _query_key_norms(sizes: Sizes) -> dict[str, Shape]:
    return {f"self_attn.{name}_norm": (sizes.head_dim,) for name in "qk"}


def write_checkpoint(
    path: Path,
    config: Mapping[str, object],
    shapes: Mapping[str, Shape],
    *,
    seed: int = 0,
) -> Path:
    """Write config, tokenizer and random weights of these shapes; norms stay near one."""
    path.mkdir(parents=True)
    common = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }
    _write_json(path / "config.json", common | dict(config))
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    _write_json(path / "generation_config.json", generation)
    for name in TOKENIZER_FILES:
        shutil.copyfile(DEMO / name, path / name)
    random = np.random.default_rng(seed)
    tensors = {name: bfloat16(_weight(random, name, shape)) for name, shape in shapes.items()}
    write_safetensors(
        path / "model.safetensors", {name: ("BF16", data) for name, data in tensors.items()}
    )
    return path


def _weight(random: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
    values = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return values * np.float32(0.1) + np.float32("norm" in name)
    return values / np.float32(shape[-1] ** 0.5)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of float32 values rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(file: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Write ``{name: (safetensors dtype, array of the same width)}`` as one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, data) in tensors.items():
        begin, end = end, end + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for _, data in tensors.values():
            stream.write(np.ascontiguousarray(data).tobytes())


def read_safetensors(file: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Read what `write_safetensors` writes; a dtype that numpy lacks comes as bits of its width."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = np.frombuffer(raw[start + begin : start + end], _NUMPY[entry["dtype"]])
        tensors[name] = (entry["dtype"], data.reshape(entry["shape"]).copy())
    return tensors


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
