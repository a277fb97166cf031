"""vLLM loads what we write, and computes the perplexity that the embedded runtime foretells.

Where the GPU lacks a format's arithmetic vLLM multiplies wide activations by narrow weights, and
where it has more it rounds activations that the export leaves wide. So the embedded runtime is
asked for that too, and the nearer of both is what vLLM is held to. Skipped
without vLLM; the interpreter that has it may be named in ``VLLM_PYTHON``. ``GPU_LOGS`` names a
directory that keeps what vLLM said and computed; what is there is not computed again.
"""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from builders.engine.embedded.types import Sampling
from builders.numerics import published, readers
from gpu.cases import ALL, ANSWER, HERE, PROMPT

pytestmark = pytest.mark.skipif(
    not {"VLLM_PYTHON", "GPU_LOGS"} & set(os.environ) and importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed",
)
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
REFUSED = ("int4_awq", "int8_smoothquant", "w4a16_nvfp4")  # vLLM takes none of them of ModelOpt
TOLERANCE = 0.01  # of perplexity, relative
# How vLLM's kernels on Hopper read the same tensors: Marlin takes weights alone, and DeepGEMM
# rounds activations a token and 128 inputs at a time.
AS_KERNELS = {
    "NVFP4": readers.READERS["W4A16_NVFP4"],
    "MXFP8": readers.Reader(readers.READERS["MXFP8"].decode),
    "fp8_pb_wo": readers.Reader(
        readers.READERS["fp8_pb_wo"].decode, published.READERS["FP8_BLOCK"].rounding
    ),
}


@pytest.fixture(scope="module")
def by_vllm(exports, windows, tmp_path_factory):
    """Score everything in vLLM, one process each, all at once."""
    folder = tmp_path_factory.mktemp("vllm")
    tasks = folder / "tasks.json"
    prompts = [row[:PROMPT] for row in windows[:32]]
    tasks.write_text(json.dumps({"windows": windows, "prompts": prompts, "answer": ANSWER}))
    kept = Path(os.environ.get("GPU_LOGS", folder))

    def one(item):
        name, (path, kv) = item[0], (item[1].path, item[1].kv)
        out = kept / f"{path.name}-{kv}.json"
        if not out.is_file():
            program = [os.environ.get("VLLM_PYTHON", sys.executable), str(HERE / "vllm_scores.py")]
            done = subprocess.run(
                [*program, str(path), kv, str(tasks), str(out)], capture_output=True, text=True,
                timeout=400, check=False, env=os.environ | QUIET,
            )  # fmt: skip
            out.with_suffix(".log").write_text(done.stdout + done.stderr, encoding="utf-8")
            if not out.is_file():
                return name, {"error": f"exit {done.returncode}: {done.stderr[-2000:]}"}
        return name, json.loads(out.read_text())

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(one, exports.items()))


@contextmanager
def as_kernels():
    kept = dict(readers.READERS)
    readers.READERS.update(AS_KERNELS)
    try:
        yield
    finally:
        readers.READERS.update(kept)


def scores(model, windows):
    return np.stack([one.logprobs for one in model.score(windows)])


def perplexity(logprobs):
    return float(np.exp(-np.mean(logprobs)))


def answers(model, prompts):
    tickets, made = [], [[] for _ in prompts]
    for prompt, tokens in zip(prompts, made, strict=True):
        sampling = Sampling(max_tokens=ANSWER, ignore_eos=True)
        sink = lambda chunk, to=tokens: to.extend(chunk.token_ids)  # noqa: E731
        tickets.append(model.submit(prompt, sampling, sink))
    assert all(ticket.wait(120) for ticket in tickets)
    return made


@pytest.mark.parametrize("name", ALL)
def test_vllm_agrees_with_the_embedded_runtime(export, by_vllm, engine, windows, report, name):
    found = by_vllm[name]
    if "error" in found:
        report(test="vllm", export=name, error=found["error"][-400:])
        assert name in REFUSED, found["error"]
        return
    theirs = perplexity(found["logprobs"])
    report(test="vllm", export=name, perplexity=theirs, version=found["vllm"])
    with engine(export.path, export.kv, device="cuda", dtype="bf16") as model:
        native = scores(model, windows)
        mine = answers(model, [row[:PROMPT] for row in windows[:32]])
    with as_kernels(), engine(export.path, export.kv, device="cuda", dtype="bf16") as model:
        plain = scores(model, windows)
    ours, other = perplexity(native), perplexity(plain)
    means = [float(np.abs(np.array(found["logprobs"]) - one).mean()) for one in (native, plain)]
    pairs = list(zip(mine, found["answers"], strict=True))
    same = np.mean([a == b for x, y in pairs for a, b in zip(x, y, strict=True)])
    eight = np.mean([x[:8] == y[:8] for x, y in pairs])
    report(
        test="agreement", export=name, vllm=theirs, embedded=ours, as_kernels=other, means=means,
        same_tokens=float(same), same_first_eight=float(eight),
    )  # fmt: skip
    assert min(abs(theirs / ours - 1), abs(theirs / other - 1)) < TOLERANCE
