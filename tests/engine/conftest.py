"""Engines made once for all tests: tiny random ones in float32, and the demo model's."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.engine import EngineSettings, build
from builders.engine.embedded.model import Embedded
from builders.formats import Format
from builders.progress import silent
from fakes.checkpoints import (
    DEMO,
    read_safetensors,
    tiny_llama,
    write_checkpoint,
    write_safetensors,
)

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama; read it, never change it."""
    return tiny_llama(tmp_path_factory.mktemp("engine") / "llama", context=128)


@pytest.fixture(scope="session")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Build an engine of a checkpoint with these settings."""

    def make(source: Path, **settings) -> Path:
        out = tmp_path_factory.mktemp("built")
        chosen = {"context": 128, "concurrency": 3} | settings
        build("embedded", source, EngineSettings(**chosen), out, silent)
        return out

    return make


@pytest.fixture(scope="session")
def tiny(checkpoint: Path, make_engine: Make) -> Iterator[Embedded]:
    """The tiny Llama in float32, where results must not depend on company."""
    with Embedded.load(make_engine(checkpoint, dtype=Format.FP32), device="cpu") as model:
        yield model


@pytest.fixture(scope="session")
def demo(make_engine: Make) -> Iterator[Embedded]:
    """The trained demo model in bfloat16."""
    with Embedded.load(make_engine(DEMO, context=512, concurrency=4), device="cpu") as model:
        yield model


@dataclass
class Export:
    """A quantized checkpoint to spoil: change its parts, then `write` it."""

    tensors: dict[str, tuple[str, np.ndarray]]
    config: dict
    declared: dict

    def write(self, path: Path) -> Path:
        write_checkpoint(path, {}, {})
        write_safetensors(path / "model.safetensors", self.tensors)
        (path / "config.json").write_text(json.dumps(self.config))
        (path / "hf_quant_config.json").write_text(json.dumps({"quantization": self.declared}))
        return path


@pytest.fixture
def fp8(checkpoint: Path) -> Export:
    """The tiny Llama in FP8 with an FP8 KV cache, as ModelOpt lays it out; scales are 2^-n."""
    tensors = {}
    for name, (dtype, bits) in read_safetensors(checkpoint / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = (dtype, bits)
            continue
        values = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()
        codes = (values * 256).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        module = name.removesuffix(".weight")
        tensors |= {
            name: ("F8_E4M3", codes),
            f"{module}.weight_scale": ("F32", np.float32(1 / 256)),
            f"{module}.input_scale": ("F32", np.float32(1 / 64)),
        }
        for which in ("k", "v"):
            if module.endswith(f".{which}_proj"):
                tensors[f"{module}.{which}_scale"] = ("F32", np.float32(1 / 64))
    declared = {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", "model.embed_tokens"],
    }
    config = json.loads((checkpoint / "config.json").read_text())
    return Export(tensors, config | {"quantization_config": {"quant_method": "modelopt"}}, declared)
