"""Contexts and model repositories that tests share."""

import shutil
from pathlib import Path

from builders.render import Context, render
from builders.render.context import Compiled, LlmApi, Vllm

LLM_API = {
    "tensor_parallel_size": 1,
    "max_batch_size": 4,
    "max_seq_len": 1024,
    "trust_remote_code": False,
    "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9},
}


def context(**changes):
    """Return the reference context with some fields changed."""
    given = {
        "name": "demo",
        "context": 1024,
        "concurrency": 4,
        "engine_digest": "e2b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "enginesmith": "0.1.0",
        "llmapi": LlmApi(arguments=LLM_API),
        "compiled": Compiled(batch=4),
        "vllm": Vllm(arguments={"max_model_len": 1024, "trust_remote_code": False}),
    }
    return Context(**given | changes)


def echo(root):
    """Write a repository whose model says the words that it is sent, and starts in a moment."""
    engine = root / "engine"
    engine.mkdir(parents=True)
    render("embedded", context(name="echo"), engine, root / "repository")
    shutil.copyfile(
        Path(__file__).with_name("triton_echo.py"),
        root / "repository" / "echo" / "1" / "model.py",
    )
    return root / "repository"
