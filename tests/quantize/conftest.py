"""One tiny source checkpoint and one export of it per recipe, made once for all tests."""

import json
from collections.abc import Callable

import pytest

from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, shipped
from fakes.checkpoints import tiny_llama

Export = Callable[[str], Checkpoint]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny Llama in bfloat16."""
    return Checkpoint.open(tiny_llama(tmp_path_factory.mktemp("source") / "llama"))


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """Forty short texts of several lengths."""
    file = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    sentence = "Return item {} of the list, or raise IndexError when there is none. "
    texts = [sentence.format(number) * (1 + number % 5) for number in range(40)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return Calibration(files=(file,), samples=16, length=64, seed=1)


@pytest.fixture(scope="session")
def export(
    source: Checkpoint, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    """The export of the tiny Llama by a shipped recipe's name; read it, never change it."""
    made: dict[str, Checkpoint] = {}

    def make(name: str) -> Checkpoint:
        if name not in made:
            out = tmp_path_factory.mktemp(f"export-{name}")
            quantize(source, shipped()[name], calibration, out, silent)
            made[name] = Checkpoint.open(out)
        return made[name]

    return make
