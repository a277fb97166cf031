"""The embedded runtime computes on a GPU what it computes on a CPU, for every export.

Sums run in another order there. In a plain float32 model that is the last digits; where activations
are rounded, a last digit can move one over the boundary between two codes, by a whole step, and
what gates measure (the mean over tokens) stays.
"""

import json
import time

import numpy as np
import pytest

from gpu.cases import ALL, EXPORTS

ROWS = 16
# By dtype: largest difference of any log-probability in the unquantized model, and of perplexity in
# the others (relative).
CLOSE = {"fp32": (1e-3, 2e-3), "bf16": (0.5, 3e-2)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ALL)
def test_log_probabilities_agree_with_the_cpu(export, engine, windows, report, name, dtype):
    found = {}
    for device in ("cpu", "cuda"):
        with engine(export.path, export.kv, device=device, dtype=dtype) as model:
            found[device] = np.stack([s.logprobs for s in model.score(windows[:ROWS])])
    apart = np.abs(found["cuda"] - found["cpu"])
    cpu, cuda = (float(np.exp(-found[d].mean())) for d in ("cpu", "cuda"))
    report(
        test="embedded", export=name, dtype=dtype, cpu=cpu, cuda=cuda,
        mean=float(apart.mean()), max=float(apart.max()),
    )  # fmt: skip
    single, whole = CLOSE[dtype]
    assert abs(cuda / cpu - 1) < whole
    if name == "unquantized":
        assert apart.max() < single


@pytest.mark.parametrize("name", ALL)
def test_scoring_speed(export, engine, windows, report, name):
    with engine(export.path, export.kv, device="cuda") as model:
        model.score(windows)
        began = time.perf_counter()
        for _ in range(4):
            model.score(windows)
        seconds = (time.perf_counter() - began) / 4
    tokens = sum(len(row) for row in windows)
    report(test="speed", export=name, tokens=tokens, per_second=tokens / seconds)
    assert tokens / seconds > 0


@pytest.mark.parametrize("name", EXPORTS)
def test_quantizing_on_the_gpu_gives_what_the_cpu_gives(exports, by_gpu, report, name):
    ours, theirs = exports[name].path, by_gpu[name]
    codes = of = 0
    cpu, gpu = _bytes(ours), _bytes(theirs)
    assert cpu.keys() == gpu.keys()
    for tensor, data in cpu.items():
        a, b = np.frombuffer(data, np.uint8), np.frombuffer(gpu[tensor], np.uint8)
        if tensor.endswith(".weight"):
            codes += int((a != b).sum())
            of += len(a)
    scales = [t for t, data in cpu.items() if not t.endswith(".weight") and data != gpu[t]]
    report(test="quantize on GPU", export=name, bytes=codes, of=of, scales=len(scales))
    # SmoothQuant and AWQ write scaled weights, and find their factors in activations.
    assert codes <= (0.1 if name == "int8_smoothquant" else 0.01) * of


def _bytes(path):
    """Return the raw bytes of every tensor of the one file."""
    raw = (path / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    body = raw[8 + size :]
    return {
        name: body[slice(*told["data_offsets"])]
        for name, told in header.items()
        if name != "__metadata__"
    }
