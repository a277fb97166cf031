"""How long quantizing an 8B model takes on a GPU, and how much memory, beside NVIDIA's hf_ptq.py.

    python tests/bench/quantize.py WORK [--hf-ptq DIR/hf_ptq.py] [--recipes fp8,nvfp4] [--json FILE]
    python tests/bench/quantize.py WORK --memory streamed --recipes mxfp8,fp8 --texts 8

Makes in WORK a Llama of 8B shape with random weights, then quantizes it by each recipe: by this
package and, where given, by NVIDIA's own program with the same texts, length, batch and KV cache.
With ``--memory streamed`` the model is never whole in memory; GPU or not, the table tells how much
it took. Each run is a process of its own over files that are not in memory, with no compiled
extension at hand, and ends when what it wrote is on the disk. Prints a Markdown table.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
SAMPLES, LENGTH, BATCH = 128, 512, 32
# Our recipe: hf_ptq.py's name of the format, and of the KV cache.
RECIPES = {
    "fp8": ("fp8", "fp8"),
    "nvfp4": ("nvfp4", "fp8"),
    "mxfp8": ("mxfp8", "none"),
    "int4_awq": ("int4_awq", "none"),
}
SHAPE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
STEPS = {
    "load the quantizer": "import", "load the checkpoint": "load", "export": "export",
    "check the export": "check",
}  # fmt: skip


def make_model(out: Path) -> None:
    """Write the checkpoint, four layers a file, unless it is there."""
    if (out / "config.json").is_file():
        return
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    weights, parts = {}, dict(tensors(SHAPE))
    shards = max(1, SHAPE["num_hidden_layers"] // 4)
    for number, names in enumerate(split(list(parts), shards), start=1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        held = {name: _random(parts[name], place) for name in names}
        save_file(held, out / file, metadata={"format": "pt"})
        weights |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weights}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in TOKENIZER:
        shutil.copy(ROOT / "demo" / "model" / name, out / name)
    config = SHAPE | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2))


def _random(shape, place):
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, device=place).mul_(0.02).to(torch.bfloat16).cpu()


def tensors(shape):
    """Yield every tensor's name and shape."""
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        for name, size in (
            ("self_attn.q_proj", (queries, hidden)), ("self_attn.k_proj", (keys, hidden)),
            ("self_attn.v_proj", (keys, hidden)), ("self_attn.o_proj", (hidden, queries)),
            ("mlp.gate_proj", (inner, hidden)), ("mlp.up_proj", (inner, hidden)),
            ("mlp.down_proj", (hidden, inner)), ("input_layernorm", (hidden,)),
            ("post_attention_layernorm", (hidden,)),
        ):  # fmt: skip
            yield f"model.layers.{layer}.{name}.weight", size
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (shape["vocab_size"], hidden)


def split(names, parts):
    """Cut a list into so many pieces of about equal length."""
    size = -(-len(names) // parts)
    return [names[at : at + size] for at in range(0, len(names), size)]


def make_texts(out: Path) -> None:
    """Write texts that each have more tokens than are read."""
    words = (ROOT / "demo" / "model" / "README.md").read_text(encoding="utf-8").split()
    lines = (
        json.dumps({"text": " ".join(random.Random(n).choices(words, k=2 * LENGTH))})
        for n in range(SAMPLES)
    )
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ours(work: Path, name: str, out: Path, memory: str, texts: int) -> None:
    """Quantize by this package, and print what each step took."""
    began = time.time()
    from builders import recipe as recipes
    from builders.checkpoint import Checkpoint
    from builders.formats import Format
    from builders.quantize import quantize
    from builders.quantize.memory import Workspace
    from builders.recipe import Calibration, Memory

    starts: dict[str, float] = {}

    def progress(what: str, done: float, _total: float, *, unit: str = "") -> None:
        del unit
        if not done:
            starts.setdefault(STEPS.get(what, "calibrate"), time.time())

    kv = Format.FP8 if RECIPES[name][1] == "fp8" else Format.BF16
    recipe = dataclasses.replace(recipes.find(name, beside=Path.cwd()), kv_cache=kv)
    read = Calibration(files=(work / "texts.jsonl",), samples=texts, length=LENGTH)
    held = Workspace(memory=Memory(memory))
    out.mkdir()
    quantize(Checkpoint.open(work / "model"), recipe, read, out, progress, workspace=held)
    starts["end"] = time.time()
    at = sorted(starts.items(), key=lambda pair: pair[1])
    steps = {name: later - start for (name, start), (_, later) in pairwise(at)}
    steps["start"] = at[0][1] - began
    steps["host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print("STEPS " + json.dumps(steps))


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run a program to the end, and until its files are on the disk; watch what memory it takes."""
    watch = Watch()
    extensions = log.with_suffix(".extensions")
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(extensions), "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as text:
        child = subprocess.Popen(
            command, stdout=text, stderr=subprocess.STDOUT, env=environment,
            cwd=Path(command[1]).parent,
        )  # fmt: skip
        watch.start(child.pid)
        code = child.wait()
    ran = time.perf_counter() - began
    os.sync()
    found = {"seconds": ran, "to_disk": time.perf_counter() - began, **watch.stop()}
    shutil.rmtree(extensions, ignore_errors=True)
    said = log.read_text(encoding="utf-8")
    compiled = re.findall(r"Loaded extension \S+ in ([\d.]+) seconds", said)
    found["compiling"] = sum(map(float, compiled))
    steps = re.search(r"^STEPS (.*)$", said, re.MULTILINE)
    if steps:
        found |= json.loads(steps[1])
    return found | {"failed": code} if code else found


class Watch:
    """Looks ten times a second how much memory the GPU and a process use."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._gpu = self._host = 0.0
        self._thread: threading.Thread | None = None

    def start(self, pid: int) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """End, and return the most that was seen, in GB; host memory without files' pages."""
        self._end.set()
        if self._thread:
            self._thread.join()
        return {"gpu_gb": self._gpu / 1e9, "anonymous_gb": self._host / 1e9}

    def _look(self, pid: int) -> None:
        handle = None
        with contextlib.suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._end.wait(0.1):
            if handle is not None:
                self._gpu = max(self._gpu, pynvml.nvmlDeviceGetMemoryInfo(handle).used)
            with contextlib.suppress(OSError, ValueError, IndexError):
                told = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                kilobytes = int(re.findall(r"RssAnon:\s+(\d+)", told)[0])
                self._host = max(self._host, kilobytes * 1024)


def forget_files(folder: Path) -> None:
    """Let the operating system forget what it holds of these files."""
    os.sync()
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(work: Path) -> dict[str, float]:
    """Measure how fast the disk reads and writes, in GB/s, with plain calls and one thread."""
    forget_files(work / "model")
    file = next((work / "model").glob("*.safetensors"))
    began, buffer = time.perf_counter(), bytearray(1 << 24)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    read = file.stat().st_size / (time.perf_counter() - began) / 1e9
    block, began = os.urandom(1 << 24), time.perf_counter()
    with (work / "written").open("wb", buffering=0) as opened:
        for _ in range(128):
            opened.write(block)
        os.fsync(opened.fileno())
    write = 128 * len(block) / (time.perf_counter() - began) / 1e9
    (work / "written").unlink()
    return {"read": read, "write": write}


def commands(work: Path, name: str, asked: argparse.Namespace):
    """Return what to run for one recipe: by whom, the command, and where it writes."""
    out, hf_ptq = work / "out", asked.hf_ptq
    how = ["--memory", asked.memory, "--texts", str(asked.texts)]
    yield "ours", [sys.executable, __file__, str(work), "--child", name, *how], out
    if hf_ptq:
        form, kv = RECIPES[name]
        yield "hf_ptq.py", [
            sys.executable, str(hf_ptq), "--pyt_ckpt_path", str(work / "model"), "--qformat", form,
            "--kv_cache_qformat", kv, "--dataset", str(work / "texts.jsonl"), "--calib_size",
            str(asked.texts), "--calib_seq", str(LENGTH), "--batch_size", str(BATCH),
            "--skip_generate", "--export_path", str(out),
        ], out  # fmt: skip


def table(rows: list[dict]) -> str:
    """Return the table of all runs."""
    heads = ["recipe", "by", "seconds", "until on disk", "import", "load", "calibrate", "export",
             "check", "compiling", "GPU GB", "host GB", "written GB"]  # fmt: skip
    keys = ["recipe", "by", "seconds", "to_disk", "import", "load", "calibrate", "export", "check",
            "compiling", "gpu_gb", "anonymous_gb", "written_gb"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        texts = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--hf-ptq", type=Path)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-make", action="store_true")
    parser.add_argument("--memory", default="auto", choices=["auto", "resident", "streamed"])
    parser.add_argument("--texts", type=int, default=SAMPLES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    work = asked.work.resolve()
    if asked.child:
        ours(work, asked.child, work / "out", asked.memory, asked.texts)
        return
    make_model(work / "model")
    make_texts(work / "texts.jsonl")
    if not asked.only_make:
        print(table(runs(work, asked)))


def runs(work: Path, asked: argparse.Namespace) -> list[dict]:
    """Run everything, and return a row for each run."""
    print(json.dumps({"disk": disk(work)}), flush=True)
    rows: list[dict] = []
    for name in asked.recipes.split(","):
        for who, command, out in commands(work, name, asked):
            shutil.rmtree(out, ignore_errors=True)
            forget_files(work / "model")
            found = measured(command, work / f"{name}-{who}.log")
            found["written_gb"] = sum(f.stat().st_size for f in out.glob("*.safetensors")) / 1e9
            rows.append({"recipe": name, "by": who, **found})
            print(json.dumps(rows[-1]), flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    shutil.rmtree(work / "out", ignore_errors=True)
    return rows


if __name__ == "__main__":
    main()
