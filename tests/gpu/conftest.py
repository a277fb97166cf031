"""What the tests on a GPU share: exports made on the CPU, engines, and a place for the numbers.

    GPU_TESTS=0 pytest -m gpu tests/gpu        # 0: which device; without it these tests are skipped

With ``GPU_REPORT=FILE`` every measured number is appended to the file as a line of JSON.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.checkpoints import DEMO
from gpu.cases import CORPUS, EXPORTS, HERE, LENGTH, MADE, OTHERS, WINDOWS, folder


def pytest_collection_modifyitems(items):
    here = [item for item in items if item.path.is_relative_to(HERE)]
    on = os.environ.get("CUDA_VISIBLE_DEVICES") and _has_cuda()
    for item in here:
        item.add_marker(pytest.mark.gpu)
        # Libraries that are only there beside a GPU warn of their own affairs as they are imported.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if not on:
            item.add_marker(pytest.mark.skip(reason="set GPU_TESTS to the device to test on"))


def _has_cuda():
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def report():
    """Write down one number or more; the table in docs/gpu.md is made of these."""
    file = os.environ.get("GPU_REPORT")

    def write(**row):
        if file:
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")

    return write


@dataclass(frozen=True)
class Export:
    """A quantized checkpoint of the demo model, and the format of its KV cache."""

    path: Path
    kv: str


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Quantize the demo model on the CPU by every recipe above, all at once."""
    made = MADE if MADE.is_dir() else _quantize(tmp_path_factory.mktemp("exports"), cuda=False)
    kinds = {name: kv for name, (_, kv) in EXPORTS.items()} | dict.fromkeys(OTHERS, "bf16")
    found = {name: Export(made / folder(name), kv) for name, kv in kinds.items()}
    found["unquantized"] = Export(DEMO, "bf16")
    return {name: one for name, one in found.items() if one.path.is_dir()}


@pytest.fixture
def export(exports, name):
    """The export that a test's parameter ``name`` names."""
    if name not in exports:
        pytest.skip("made elsewhere: see MADE in cases.py")
    return exports[name]


@pytest.fixture(scope="session")
def by_gpu(tmp_path_factory):
    """The same recipes, calibrated and rounded on the GPU."""
    made = _quantize(tmp_path_factory.mktemp("by-gpu"), cuda=True)
    return {name: made / folder(name) for name in EXPORTS}


def _quantize(out, *, cuda):
    visible = os.environ["CUDA_VISIBLE_DEVICES"] if cuda else ""

    def one(item):
        name, (recipe, kv) = item
        subprocess.run(
            [sys.executable, str(HERE / "quantized.py"), recipe, kv, str(out / folder(name))],
            check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": visible},
        )  # fmt: skip

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, EXPORTS.items()))
    return out


@pytest.fixture(scope="session")
def windows():
    """64 windows of 512 tokens, cut from the demo corpus without gaps."""
    from builders.engine.embedded.text import Tokenizer

    texts = [json.loads(line)["text"] for line in CORPUS.read_text("utf-8").splitlines()]
    tokens = Tokenizer(DEMO).encode("\n\n".join(texts))
    assert len(tokens) >= WINDOWS * LENGTH
    return [tokens[at : at + LENGTH] for at in range(0, WINDOWS * LENGTH, LENGTH)]


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """Build and load an engine of the embedded runtime."""
    from builders.engine import EngineSettings
    from builders.engine.embedded import builder
    from builders.engine.embedded.model import Embedded
    from builders.formats import Format
    from builders.progress import silent

    def make(checkpoint, kv, *, device, dtype=None):
        settings = EngineSettings(
            context=1024, concurrency=32, kv_cache=Format(kv), dtype=dtype and Format(dtype)
        )
        out = tmp_path_factory.mktemp("engine")
        builder.build(checkpoint, settings, out, silent)
        return Embedded.load(out, device=device)

    return make
