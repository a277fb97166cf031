"""Small quantized checkpoints of every method, as values that a test spoils before it writes them.

Each is sound: names, dtypes and shapes are those that the method's own tool writes (measured on
compressed-tensors 0.20, bitsandbytes 0.50 and ModelOpt 0.47), codes are random, scales plausible.
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from builders.autopsy import Inspection
from fakes.checkpoints import DEMO, Sizes, bfloat16, write_safetensors

Tensor = tuple[str, np.ndarray]
SIZES = Sizes()
KEPT = ["lm_head", "model.embed_tokens"]
LAYER = "model.layers.1.mlp.down_proj"  # one of the quantized layers, for tests to spoil


@dataclass
class Fake:
    """A checkpoint in memory: settings, JSON files beside them, tensors."""

    config: dict
    tensors: dict[str, Tensor]
    files: dict[str, dict] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write it into the new directory ``path``; tensors named ``file:name`` go to that file."""
        path.mkdir(parents=True)
        shutil.copyfile(DEMO / "tokenizer.json", path / "tokenizer.json")
        words = json.loads((DEMO / "tokenizer_config.json").read_text())
        beside = {
            "tokenizer_config.json": words | {"tokenizer_class": "PreTrainedTokenizerFast"},
            "config.json": self.config,
        }
        for name, data in (beside | self.files).items():
            (path / name).write_text(json.dumps(data))
        write_safetensors(path / "model.safetensors", self.tensors)
        return path

    def declare(self, **said) -> None:
        """Change what config.json says of the quantization."""
        self.config["quantization_config"] |= said


def _scale(shape, dtype: str, rng) -> Tensor:
    """Return plausible scales; one of a whole matrix is the same for all that are fused with it."""
    values = rng.uniform(0.01, 0.03, shape).astype(np.float32)
    if values.size == 1:
        values = np.full(shape, 0.02, np.float32)
    if dtype == "F32":
        return dtype, values
    if dtype == "F16":
        return dtype, values.astype(np.float16)
    if dtype == "BF16":
        return dtype, bfloat16(values)
    if dtype == "F8_E4M3":
        return dtype, rng.integers(0x20, 0x50, shape, np.uint8)
    return dtype, rng.integers(112, 124, shape, np.uint8)  # E8M0


def _codes(shape, dtype: str, rng) -> Tensor:
    kinds = {"I32": np.int32, "I8": np.int8}
    kind = kinds.get(dtype, np.uint8)
    top = 0x7E if dtype == "F8_E4M3" else np.iinfo(kind).max
    return dtype, rng.integers(0, top, shape, kind)


def _numbers(values, dtype: str) -> Tensor:
    return dtype, np.array(values, {"I64": np.int64, "F32": np.float32, "U8": np.uint8}[dtype])


def model() -> Fake:
    """A small unquantized Llama that says its rotary settings in both forms."""
    rng = np.random.default_rng(7)
    config = SIZES.config("LlamaForCausalLM", "llama") | {
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "vocab_size": 4096,
    }
    shapes = SIZES.tensors(SIZES.attention() | SIZES.mlp())
    tensors = {
        name: ("BF16", bfloat16(rng.standard_normal(shape) / shape[-1] ** 0.5 + (len(shape) == 1)))
        for name, shape in shapes.items()
    }
    return Fake(config, tensors)


def _quantize(declared: dict, layer: Callable, **beside) -> Fake:
    """Replace every linear layer of the model by the tensors that ``layer(o, i, rng)`` makes."""
    made, rng = model(), np.random.default_rng(3)
    made.config["quantization_config"] = copy.deepcopy(declared)
    made.files |= beside
    for name in list(made.tensors):
        if "_proj" in name:
            module, (_, data) = name.removesuffix(".weight"), made.tensors.pop(name)
            made.tensors |= {f"{module}.{k}": v for k, v in layer(*data.shape, rng).items()}
    return made


def _kv(made: Fake, at: str = "self_attn.{0}_proj.{0}_scale", shape=()) -> Fake:
    for number in range(SIZES.layers):
        for which in "kv":
            name = f"model.layers.{number}.{at.format(which)}"
            made.tensors[name] = ("F32", np.full(shape, 0.012, np.float32))
    return made


def _modelopt(algorithm: str, layer: Callable, *, kv: str = "", group: int = 0) -> Fake:
    said = {"quant_algo": algorithm, "kv_cache_quant_algo": kv or None, "exclude_modules": KEPT}
    said |= {"group_size": group} if group else {}
    flat = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": list(KEPT)}
    if kv:
        flat["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    made = _quantize(flat, layer)
    made.files["hf_quant_config.json"] = {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quantization": said,
    }
    return _kv(made) if kv else made


def _fp8(o, i, rng):
    return {
        "weight": _codes((o, i), "F8_E4M3", rng),
        "weight_scale": _scale((), "F32", rng),
        "input_scale": _scale((), "F32", rng),
    }


def _nvfp4(o, i, rng):
    return {
        "weight": _codes((o, i // 2), "U8", rng),
        "weight_scale": _scale((o, i // 16), "F8_E4M3", rng),
        "weight_scale_2": _scale((), "F32", rng),
        "input_scale": _scale((), "F32", rng),
    }


def _modelopt_awq(o, i, rng):
    return {
        "weight": _codes((o // 2, i), "U8", rng),
        "weight_scale": _scale((o, i // 128), "F32", rng),
    }


def _modelopt_mixed() -> Fake:
    made = model()
    rng = np.random.default_rng(5)
    layers = {}
    for name in list(made.tensors):
        module, kind = name.removesuffix(".weight"), None
        if "self_attn" in name:
            kind, layer = "FP8", _fp8
        elif "_proj" in name:
            kind, layer = "NVFP4", _nvfp4
        if kind:
            _, data = made.tensors.pop(name)
            made.tensors |= {f"{module}.{k}": v for k, v in layer(*data.shape, rng).items()}
            layers[module] = {"quant_algo": kind} | ({"group_size": 16} if kind == "NVFP4" else {})
    said = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    made.files["hf_quant_config.json"] = {"quantization": {"kv_cache_quant_algo": None} | said}
    made.config["quantization_config"] = {"quant_method": "modelopt", "ignore": []} | said
    return made


def _compressed(layout: str, weights: Mapping, layer: Callable, *, inputs=None, kv=None) -> Fake:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": inputs}
    return _quantize(
        {
            "quant_method": "compressed-tensors",
            "format": layout,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
            "kv_cache_scheme": kv,
        },
        layer,
    )


_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "dynamic": False}
_FLOAT4 = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False}


def _ct_fp8(o, i, rng):
    return {
        "weight": _codes((o, i), "F8_E4M3", rng),
        "weight_scale": _scale((1,), "BF16", rng),
        "input_scale": _scale((1,), "BF16", rng),
    }


def _ct_fp8_rows(o, i, rng):
    return {
        "weight": _codes((o, i), "F8_E4M3", rng),
        "weight_scale": _scale((o, 1), "BF16", rng),
    }


def _ct_fp8_block(o, i, rng):
    return {
        "weight": _codes((o, i), "F8_E4M3", rng),
        "weight_scale": _scale((-(-o // 128), -(-i // 128)), "BF16", rng),
    }


def _ct_int8(o, i, rng):
    return {"weight": _codes((o, i), "I8", rng), "weight_scale": _scale((o, 1), "BF16", rng)}


def _ct_packed(o, i, rng):
    return {
        "weight_packed": _codes((o, i // 8), "I32", rng),
        "weight_scale": _scale((o, i // 128), "BF16", rng),
        "weight_shape": _numbers([o, i], "I64"),
    }


def _ct_packed_zeros(o, i, rng):
    zeros = {"weight_zero_point": _codes((o // 8, i // 128), "I32", rng)}
    return _ct_packed(o, i, rng) | zeros


def _ct_nvfp4(o, i, rng):
    return {
        "weight_packed": _codes((o, i // 2), "U8", rng),
        "weight_scale": _scale((o, i // 16), "F8_E4M3", rng),
        "weight_global_scale": ("F32", np.array([1234.5], np.float32)),
        "input_global_scale": ("F32", np.array([321.0], np.float32)),
    }


def _ct_mxfp4(o, i, rng):
    return {
        "weight_packed": _codes((o, i // 2), "U8", rng),
        "weight_scale": _scale((o, i // 32), "U8", rng),
    }


def _gptq(o, i, rng):
    return {
        "qweight": _codes((i // 8, o), "I32", rng),
        "qzeros": _codes((i // 128, o // 8), "I32", rng),
        "scales": _scale((i // 128, o), "F16", rng),
        "g_idx": ("I32", np.arange(i, dtype=np.int32) // 128),
    }


def _awq(o, i, rng):
    return {
        "qweight": _codes((i, o // 8), "I32", rng),
        "qzeros": _codes((i // 128, o // 8), "I32", rng),
        "scales": _scale((i // 128, o), "F16", rng),
    }


def _bnb8(o, i, rng):
    return {
        "weight": _codes((o, i), "I8", rng),
        "SCB": ("F32", rng.uniform(0, 3, o).astype(np.float32)),
        "weight_format": _numbers(0, "U8"),
    }


def _bnb4(o, i, rng):
    blocks = -(-o * i // 64)
    said = {"quant_type": "nf4", "blocksize": 64, "shape": [o, i]}
    state = json.dumps(said | {"nested_blocksize": 256, "nested_offset": 0.02}).encode()
    return {
        "weight": _codes((o * i // 2, 1), "U8", rng),
        "weight.absmax": ("U8", rng.integers(0, 255, blocks, np.uint8)),
        "weight.quant_map": ("F32", np.linspace(-1, 1, 16, dtype=np.float32)),
        "weight.nested_absmax": _scale((-(-blocks // 256),), "F32", rng),
        "weight.nested_quant_map": ("F32", np.linspace(-1, 1, 256, dtype=np.float32)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(state, np.uint8)),
    }


def _bnb4_plain(o, i, rng):
    parts = {k: v for k, v in _bnb4(o, i, rng).items() if "nested" not in k}
    return parts | {"weight.absmax": ("F32", rng.uniform(0, 1, o * i // 64).astype(np.float32))}


def _hqq(o, i, rng):
    facts = {"nbits": 4, "axis": 1, "quant_scale": 0}
    return {
        "W_q": _codes((o * i // 128, 64), "U8", rng),
        "scale": _scale((o * i // 64, 1), "F16", rng),
        "zero": ("F16", rng.uniform(0, 15, (o * i // 64, 1)).astype(np.float16)),
        "shape": _numbers([o, i], "I64"),
        **{name: _numbers(value, "U8") for name, value in facts.items()},
    }


def _tiles(o, i, rng):
    return {
        "weight": _codes((o, i), "F8_E4M3", rng),
        "weight_scale_inv": _scale((-(-o // 128), -(-i // 128)), "F32", rng),
    }


def _fp8_plain(o, i, rng):
    return {"weight": _codes((o, i), "F8_E4M3", rng), "weight_scale": _scale((), "F32", rng)}


def _fp8_linear(o, i, rng):
    """As transformers' FP8Linear names what `_fp8` has."""
    names = {"weight_scale": "weight_scale_inv", "input_scale": "activation_scale"}
    return {names.get(name, name): part for name, part in _fp8(o, i, rng).items()}


def _gpt_oss() -> Fake:
    """Experts stacked and named as in GPT-OSS; attention, router and embeddings left alone."""
    made, rng = model(), np.random.default_rng(9)
    hidden, wide, experts = SIZES.hidden, SIZES.intermediate, 4
    skip = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    made.config |= {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
    made.config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skip}
    for name in [name for name in made.tensors if ".mlp." in name]:
        del made.tensors[name]
    for number in range(SIZES.layers):
        at = f"model.layers.{number}.mlp"
        made.tensors[f"{at}.router.weight"] = ("BF16", bfloat16(rng.standard_normal((4, hidden))))
        for name, o, i in (("gate_up_proj", 2 * wide, hidden), ("down_proj", hidden, wide)):
            at_name = f"{at}.experts.{name}"
            made.tensors[f"{at_name}_blocks"] = _codes((experts, o, i // 32, 16), "U8", rng)
            made.tensors[f"{at_name}_scales"] = _scale((experts, o, i // 32), "U8", rng)
            made.tensors[f"{at_name}_bias"] = ("BF16", bfloat16(rng.standard_normal((experts, o))))
    return made


_EXPERTS = 4


def _stack(made: Fake, layer: Callable) -> Fake:
    """Replace the MLPs by experts, stacked as Llama 4 has them: (experts, in, out), no modules.

    ``layer(e, o, i, rng)`` makes the tensors of one projection.
    """
    rng, (hidden, wide) = np.random.default_rng(11), (SIZES.hidden, SIZES.intermediate)
    for name in [name for name in made.tensors if ".mlp." in name]:
        del made.tensors[name]
    for number in range(SIZES.layers):
        at = f"model.layers.{number}.feed_forward"
        router = bfloat16(rng.standard_normal((_EXPERTS, hidden)))
        made.tensors[f"{at}.router.weight"] = ("BF16", router)
        for name, o, i in (("gate_up_proj", 2 * wide, hidden), ("down_proj", hidden, wide)):
            for suffix, tensor in layer(_EXPERTS, o, i, rng).items():
                made.tensors[f"{at}.experts.{name}{suffix}"] = tensor
    return made


def mixture() -> Fake:
    """The unquantized model with stacked experts; to be looked at, no model of transformers."""

    def layer(e, o, i, rng):
        return {"": ("BF16", bfloat16(rng.standard_normal((e, i, o)) / i**0.5))}

    return _stack(model(), layer)


def _fp8_experts(e, o, i, rng):
    return {
        "": _codes((e, i, o), "F8_E4M3", rng),
        "_weight_scale": _scale((), "F32", rng),
        "_input_scale": _scale((), "F32", rng),
    }


def _nvfp4_experts(e, o, i, rng):
    return {
        "": _codes((e, i // 2, o), "U8", rng),
        "_weight_scale": _scale((e, i // 16, o), "F8_E4M3", rng),
        "_weight_scale_2": _scale((), "F32", rng),
        "_input_scale": _scale((), "F32", rng),
    }


def _tiles_experts(e, o, i, rng):
    grid = (e, -(-o // 128), -(-i // 128))
    return {"": _codes((e, o, i), "F8_E4M3", rng), "_scale_inv": _scale(grid, "F32", rng)}


def _modelopt_stacked(algorithm: str, layer: Callable, experts: Callable, group: int = 0) -> Fake:
    made = _stack(_modelopt(algorithm, layer, group=group), experts)
    kept = [*KEPT, *(f"model.layers.{n}.feed_forward.router" for n in range(SIZES.layers))]
    made.files["hf_quant_config.json"]["quantization"]["exclude_modules"] = kept
    made.declare(ignore=kept)
    return made


def _modelopt_mixed_stacked() -> Fake:
    """Attention in FP8, experts in NVFP4: named by the module that holds them, as ModelOpt does."""
    made = _stack(_modelopt_mixed(), _nvfp4_experts)
    layers = made.config["quantization_config"]["quantized_layers"]
    for name in [name for name in layers if ".mlp." in name]:
        del layers[name]
    for number in range(SIZES.layers):
        at = f"model.layers.{number}.feed_forward.experts"
        layers[at] = {"quant_algo": "NVFP4", "group_size": 16}
    return made


def _config_gptq(**said) -> dict:
    return {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "lm_head": False} | said


def _gptq_beside() -> Fake:
    made = _quantize({}, _gptq)
    del made.config["quantization_config"]
    made.files["quantize_config.json"] = _config_gptq()
    return made


def _awq_old() -> Fake:
    made = _quantize({}, _awq)
    del made.config["quantization_config"]
    said = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
    made.files["quant_config.json"] = said
    return made


def _flat_only() -> Fake:
    made = _modelopt("FP8", _fp8, kv="FP8")
    del made.files["hf_quant_config.json"]
    return made


_STATIC = _FLOAT8 | {"strategy": "tensor"}
_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
_INT_TOKENS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
_LOCAL = _FLOAT4 | {"group_size": 16, "dynamic": "local"}
_BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

SOUND: dict[str, Callable[[], Fake]] = {
    "unquantized": model,
    "modelopt fp8": lambda: _modelopt("FP8", _fp8, kv="FP8"),
    "modelopt nvfp4": lambda: _modelopt("NVFP4", _nvfp4, kv="FP8", group=16),
    "modelopt int4 awq": lambda: _modelopt("W4A16_AWQ", _modelopt_awq, group=128),
    "modelopt mixed": _modelopt_mixed,
    "modelopt flat": _flat_only,
    "modelopt fp8 experts": lambda: _modelopt_stacked("FP8", _fp8, _fp8_experts),
    "modelopt nvfp4 experts": lambda: _modelopt_stacked("NVFP4", _nvfp4, _nvfp4_experts, 16),
    "modelopt mixed experts": _modelopt_mixed_stacked,
    "compressed fp8": lambda: _kv(
        _compressed(
            "float-quantized",
            _FLOAT8 | {"strategy": "tensor"},
            _ct_fp8,
            inputs=_STATIC,
            kv=_STATIC,
        ),
        "self_attn.{0}_scale",
        (1,),
    ),
    "compressed fp8 dynamic": lambda: _compressed(
        "float-quantized", _FLOAT8 | {"strategy": "channel"}, _ct_fp8_rows, inputs=_TOKENS
    ),
    "compressed fp8 block": lambda: _compressed(
        "float-quantized",
        _FLOAT8 | {"strategy": "block", "block_structure": [128, 128]},
        _ct_fp8_block,
        inputs=_TOKENS,
    ),
    "compressed w8a8": lambda: _compressed(
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel"},
        _ct_int8,
        inputs=_INT_TOKENS,
    ),
    "compressed w4a16": lambda: _compressed("pack-quantized", _INT4, _ct_packed),
    "compressed w4a16 zeros": lambda: _compressed(
        "pack-quantized", _INT4 | {"symmetric": False}, _ct_packed_zeros
    ),
    "compressed nvfp4": lambda: _compressed(
        "nvfp4-pack-quantized", _FLOAT4 | {"group_size": 16}, _ct_nvfp4, inputs=_LOCAL
    ),
    "compressed mxfp4": lambda: _compressed(
        "mxfp4-pack-quantized", _FLOAT4 | {"group_size": 32}, _ct_mxfp4
    ),
    "gptq": lambda: _quantize({"quant_method": "gptq"} | _config_gptq(), _gptq),
    "gptq beside": _gptq_beside,
    "awq": lambda: _quantize(
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "version": "gemm",
        },
        _awq,
    ),
    "awq old": _awq_old,
    "bitsandbytes int8": lambda: _quantize(
        {"quant_method": "bitsandbytes", "load_in_8bit": True}, _bnb8
    ),
    "bitsandbytes nf4": lambda: _quantize(_BNB4, _bnb4_plain),
    "bitsandbytes nf4 double": lambda: _quantize(
        _BNB4 | {"bnb_4bit_use_double_quant": True}, _bnb4
    ),
    "hqq": lambda: _quantize(
        {
            "quant_method": "hqq",
            "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}},
            "skip_modules": ["lm_head"],
        },
        _hqq,
    ),
    "fp8 block": lambda: _quantize(
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
        },
        _tiles,
    ),
    "fp8 block experts": lambda: _stack(
        _quantize({"quant_method": "fp8", "weight_block_size": [128, 128]}, _tiles), _tiles_experts
    ),
    "fp8 static": lambda: _quantize(
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}, _fp8
    ),
    "fp8 static inv": lambda: _quantize(
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        _fp8_linear,
    ),
    "fp8 dynamic": lambda: _quantize(
        {"quant_method": "fp8", "activation_scheme": "dynamic"}, _fp8_plain
    ),
    "mxfp4": _gpt_oss,
}


def sound(name: str) -> Fake:
    """Return a sound checkpoint of a method, to be written as it is or spoiled first."""
    return (SOUND | {"unquantized experts": mixture})[name]()


def rules(inspection: Inspection) -> dict[str, str]:
    """Return the broken rules, each with the first place where it is broken."""
    found: dict[str, str] = {}
    for finding in inspection.findings:
        found.setdefault(finding.rule, finding.where)
    return found
