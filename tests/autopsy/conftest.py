"""Checkpoints on disk: sound ones of every method, and copies that a test has spoiled."""

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.autopsy import Inspection, inspect
from builders.checkpoint import Checkpoint
from fakes.quantized import Fake, sound


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The unquantized model that all quantized fakes are made from."""
    return Checkpoint.open(sound("unquantized").write(tmp_path_factory.mktemp("base") / "model"))


@pytest.fixture
def spoiled(tmp_path: Path) -> Callable[..., Inspection]:
    """Examine a sound checkpoint after a change to its settings or tensors in memory."""

    def make(name: str, change: Callable[[Fake], object] = lambda fake: None, **options):
        fake = sound(name)
        change(fake)
        return inspect(fake.write(tmp_path / "spoiled"), **options)

    return make
