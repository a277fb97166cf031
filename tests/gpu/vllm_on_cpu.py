"""Load exports in a vLLM for CPUs and score the same windows in the embedded runtime.

    python tests/gpu/vllm_on_cpu.py PYTHON EXPORTS CORPUS OUT

PYTHON is the one that has vLLM. EXPORTS holds folders named RECIPE-KV (fp8-bf16, as `quantized.py`
writes them), CORPUS is the demo's corpus.jsonl. OUT keeps what vLLM said of each, twice where its
tables were mended (see `vllm_scores.py`), and gets `table.md`. A second run measures only what is
not there yet. Run by hand; docs/vllm.md has the result.
"""

import json
import os
import subprocess
import sys
from itertools import chain
from math import exp
from pathlib import Path

from builders.engine import EngineSettings, build, scorer
from builders.engine.embedded.text import Tokenizer
from builders.formats import Format
from builders.progress import silent

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "demo" / "model"
WINDOWS, LENGTH, PROMPT, ANSWER = 16, 512, 32, 32
# Nothing is told to anybody, and vLLM stays in its process, so that its tables can be mended there.
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
HEAD = """\
| export | KV cache | vLLM | embedded | apart | mean | vLLM's tables | why not |
| --- | --- | ---: | ---: | ---: | ---: | --- | --- |
"""


def main(python: str, exports: str, corpus: str, out: str) -> None:
    """Measure what is not measured yet, then write the table."""
    made, kept = sorted(Path(exports).glob("*/config.json")), Path(out)
    kept.mkdir(parents=True, exist_ok=True)
    windows = _windows(Path(corpus))
    tasks = kept / "tasks"
    prompts = [row[:PROMPT] for row in windows[:8]]
    tasks.write_text(json.dumps({"windows": windows, "prompts": prompts, "answer": ANSWER}))
    rows = [HEAD]
    kinds = [(one.parent, one.parent.name.split("-")[-1]) for one in made]
    for path, kv in [(DEMO, "bf16"), *kinds]:
        name = "unquantized" if path == DEMO else path.name.removesuffix(f"-{kv}")
        ours = _ours(path, kv, windows, kept / f"{name}-{kv}.embedded.json")
        for mended in (False, True):
            ending = ".emul.json" if mended else ".json"
            told = _theirs(python, path, kv, tasks, kept / f"{name}-{kv}{ending}", mended=mended)
            rows.append(_row(name, kv, ours, told, mended=mended))
            if "logprobs" in told:
                break
    (kept / "table.md").write_text("".join(rows))
    sys.stdout.write("".join(rows))


def _windows(corpus: Path) -> list[list[int]]:
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    tokens = Tokenizer(DEMO).encode("\n\n".join(texts))
    return [tokens[at : at + LENGTH] for at in range(0, WINDOWS * LENGTH, LENGTH)]


def _theirs(
    python: str, path: Path, kv: str, tasks: Path, out: Path, *, mended: bool
) -> dict[str, list]:
    if not out.is_file():
        argv = [python, str(HERE / "vllm_scores.py"), str(path), kv, str(tasks), str(out)]
        argv += ["emulate"] if mended else []
        done = subprocess.run(
            argv, env=os.environ | QUIET, capture_output=True, text=True, check=False
        )
        if not out.is_file():
            last = [line for line in done.stderr.splitlines() if "Error: " in line][-1:]
            out.write_text(json.dumps({"error": "stopped while computing: " + "".join(last)}))
    return json.loads(out.read_text())


def _ours(path: Path, kv: str, windows: list[list[int]], out: Path) -> dict[str, list]:
    if not out.is_file():
        settings = EngineSettings(context=1024, kv_cache=Format(kv), dtype=Format.BF16)
        engine = out.with_suffix(".engine")
        try:
            build("embedded", path, settings, engine, silent)
            with scorer(engine) as model:
                found = {"logprobs": [one.logprobs.tolist() for one in model.score(windows)]}
        except Exception as error:  # noqa: BLE001 - a refusal is a result
            found = {"error": str(error)}
        out.write_text(json.dumps(found))
    return json.loads(out.read_text())


def _row(name: str, kv: str, ours: dict, told: dict, *, mended: bool) -> str:
    mine = _perplexity(ours)
    tables = "mended" if mended else "as they are"
    if "error" in told:
        why = " ".join(told["error"].split())[:200]
        return f"| {name} | {kv} | refused | {mine:.3f} | | | {tables} | {why} |\n"
    theirs = _perplexity(told)
    pairs = zip(chain(*ours["logprobs"]), chain(*told["logprobs"]), strict=True)
    gaps = [abs(a - b) for a, b in pairs]
    apart, mean = theirs / mine - 1, sum(gaps) / len(gaps)
    return (
        f"| {name} | {kv} | {theirs:.3f} | {mine:.3f} | {apart:+.2%} | {mean:.3f} | {tables} | |\n"
    )


def _perplexity(found: dict) -> float:
    if "logprobs" not in found:
        return float("nan")
    return exp(-sum(map(sum, found["logprobs"])) / sum(map(len, found["logprobs"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
