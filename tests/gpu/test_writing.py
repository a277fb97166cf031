"""What is rounded and written from a GPU are the bytes that a CPU and safetensors itself write."""

import pytest
import torch
from safetensors.torch import save_file

from builders import recipe as recipes
from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import loading, quantize, saving, staging
from builders.quantize.memory import STREAMED
from builders.recipe import Calibration
from fakes.checkpoints import DEMO

WEIGHTS_ALONE = sorted(
    name for name, recipe in recipes.shipped().items() if recipe.preset in STREAMED
)


@pytest.mark.parametrize("name", WEIGHTS_ALONE)
def test_tensor_by_tensor_the_gpu_writes_what_the_cpu_writes(tmp_path, monkeypatch, report, name):
    def made(place):
        monkeypatch.setattr(loading, "device", lambda: torch.device(place))
        out = tmp_path / place
        out.mkdir()
        recipe = recipes.shipped()[name]
        quantize(Checkpoint.open(DEMO), recipe, Calibration(files=()), out, silent)
        return (out / "model.safetensors").read_bytes()

    cpu, gpu = made("cpu"), made("cuda")
    assert len(cpu) == len(gpu)
    differing = sum(a != b for a, b in zip(cpu, gpu, strict=True))
    report(test="streamed on GPU and CPU", export=name, bytes=differing, of=len(cpu))
    assert differing == 0


def test_tensors_of_a_gpu_pass_through_buffers_unchanged(tmp_path, monkeypatch):
    """Larger and smaller than a buffer, of every width, transposed, empty, and one number."""
    monkeypatch.setattr(staging, "_BUFFER", 1 << 12)
    wide = torch.randn(513, 257, device="cuda")
    tensors = {
        "float8": wide.to(torch.float8_e4m3fn), "bfloat16": wide.bfloat16(), "float32": wide,
        "turned": wide.T, "bytes": (wide > 0).to(torch.uint8), "one": wide.amax(),
        "nothing": wide[:0], "host": wide.cpu(),
    }  # fmt: skip
    saving.save_file(tensors, tmp_path / "ours", metadata={"format": "pt"})
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
