"""Two hundred gigabytes are examined in seconds: headers, scales, a few pieces of each weight."""

import json
import time
from math import prod

from builders.autopsy import inspect
from fakes.headers import BYTES


def _layer(at: str, out: int, into: int):
    yield f"{at}.weight", "U8", (out, into // 2)
    yield f"{at}.weight_scale", "F8_E4M3", (out, into // 16)
    yield f"{at}.weight_scale_2", "F32", ()
    yield f"{at}.input_scale", "F32", ()


def _shard(number: int, hidden: int, wide: int):
    at = f"model.layers.{number}"
    for name in "qkvo":
        yield from _layer(f"{at}.self_attn.{name}_proj", hidden, hidden)
    for name, out, into in (("gate", wide, hidden), ("up", wide, hidden), ("down", hidden, wide)):
        yield from _layer(f"{at}.mlp.{name}_proj", out, into)


def _write(file, tensors):
    """Write a true header and a file of that length full of holes; return the tensors' names."""
    header, end = {}, 0
    for name, dtype, shape in tensors:
        begin, end = end, end + BYTES.get(dtype, 1) * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
    return header


def nvfp4(path, *, layers, hidden, wide):
    """Write an NVFP4 checkpoint of files full of holes; return its bytes."""
    path.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers}
    (path / "config.json").write_text(json.dumps(config))
    said = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": []}
    (path / "hf_quant_config.json").write_text(json.dumps({"quantization": said}))
    (path / "tokenizer.json").write_text("{}")
    index = {}
    for number in range(layers):
        file = f"model-{number + 1:05d}-of-{layers:05d}.safetensors"
        index |= dict.fromkeys(_write(path / file, _shard(number, hidden, wide)), file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def test_two_hundred_gigabytes_take_less_than_two_seconds(tmp_path):
    size = nvfp4(tmp_path / "m", layers=120, hidden=16384, wide=40960)
    assert size > 200e9
    began = time.process_time()
    found = inspect(tmp_path / "m")
    assert time.process_time() - began < 2
    assert found.size.scale_bytes > 20e9
    assert found.size.scale_bytes_read < 1e9
    assert {f.rule for f in found.findings} >= {"weights-zero", "scale-not-positive"}
