"""Tiny random checkpoints, written in milliseconds without torch.

They have real weights in bfloat16, a real config.json, and the demo model's real tokenizer, so that
every tool of the road takes them for a model. Equal arguments write equal bytes.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DEMO = Path(__file__).parents[2] / "demo" / "model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
VOCABULARY = 4096  # what the demo model's tokenizer has
_NUMPY = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8,
    "F8_E4M3": np.uint8,
}  # fmt: skip


def tiny_llama(  # noqa: PLR0913 - every knob has a default, tests name the one they turn
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 128,
    intermediate: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    tied: bool = False,
) -> Path:
    """Write a random Llama into the new directory ``path`` and return it."""
    head_dim = hidden // heads
    attention = {
        "q_proj": (heads * head_dim, hidden),
        "k_proj": (kv_heads * head_dim, hidden),
        "v_proj": (kv_heads * head_dim, hidden),
        "o_proj": (hidden, heads * head_dim),
    }
    mlp = {
        "gate_proj": (intermediate, hidden),
        "up_proj": (intermediate, hidden),
        "down_proj": (hidden, intermediate),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}.weight": shape for name, shape in attention.items()}
        shapes |= {f"{at}.mlp.{name}.weight": shape for name, shape in mlp.items()}
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, hidden)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": context,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": tied,
    }
    return write_checkpoint(path, config, shapes, seed=seed)


def write_checkpoint(
    path: Path,
    config: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
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


def _weight(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
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
