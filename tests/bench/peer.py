"""Perplexity of our exports beside llm-compressor's of the same scheme, from the same tokens.

    python tests/bench/peer.py PYTHON [RECIPE …]

PYTHON is the interpreter of an environment with ``llmcompressor==0.14.0 torch==2.13.0``. It
quantizes the demo model by each scheme from the tokens that calibrate ours; both exports are read
by the embedded runtime. Prints a Markdown table: the change of perplexity over 60 windows of 512
tokens of the held-out corpus, and ours against llm-compressor's with its 95 % interval, paired by
window (Student's t).
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from math import exp, fsum, sqrt
from pathlib import Path

from recipes import CALIBRATION, DEMO, WINDOW, windows

from builders import engine
from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings
from builders.formats import Format
from builders.gate.statistics.intervals import t_quantile
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.calibration import Corpus
from builders.recipe import shipped

# Our recipe: llm-compressor's scheme, and the modifier that goes before.
SAME = {
    "fp8": ("FP8", ""),
    "fp8_per_token": ("FP8_DYNAMIC", ""),
    "fp8_block": ("FP8_BLOCK", ""),
    "mxfp8": ("MXFP8", ""),
    "nvfp4": ("NVFP4", ""),
    "w4a16_nvfp4": ("NVFP4A16", ""),
    "mxfp4": ("MXFP4", ""),
    "int4_rtn": ("W4A16", ""),
    "int8_smoothquant": ("W8A8", "smooth"),
}
WORKER = """
import json, sys
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import SmoothQuantModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

model, rows, scheme, before, out = sys.argv[1:]
tokens = json.load(open(rows))
data = Dataset.from_list([{"input_ids": r, "attention_mask": [1] * len(r)} for r in tokens])
recipe = [SmoothQuantModifier(smoothing_strength=0.5)] if before else []
recipe.append(QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]))
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
oneshot(
    model=loaded, tokenizer=AutoTokenizer.from_pretrained(model), dataset=data, recipe=recipe,
    num_calibration_samples=len(tokens), max_seq_length=max(map(len, tokens)),
    shuffle_calibration_samples=False, output_dir=out,
)
"""


def main(python: str, names: list[str]) -> None:
    source = Checkpoint.open(DEMO / "model")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows = _rows(source, place)
        plain = scored(source.path, place / "plain")
        print("| recipe | llm-compressor's scheme | ours | llm-compressor's | ours against it |")
        print("| --- | --- | ---: | ---: | ---: |")
        for name in names or SAME:
            mine = _ours(source, name, place / name)
            try:
                its = _theirs(python, source.path, rows, name, place / name)
            except subprocess.CalledProcessError as error:
                why = error.stderr.decode().strip().splitlines()[-1]
                print(f"| {name} | {SAME[name][0]} | {_change(mine, plain):+.2%} | {why} | |")
                continue
            beside = [f"{_change(found, plain):+.2%}" for found in (mine, its)]
            print(f"| {name} | {SAME[name][0]} | {' | '.join(beside)} | {_against(mine, its)} |")
            sys.stdout.flush()


def _rows(source: Checkpoint, place: Path) -> Path:
    from builders.quantize.rows import tokenize

    size = int(source.config["vocab_size"])
    rows = tokenize(source, Corpus.read(CALIBRATION), vocabulary=size)
    (place / "rows.json").write_text(json.dumps([list(row) for row in rows]))
    return place / "rows.json"


def _ours(source: Checkpoint, name: str, place: Path) -> list[float]:
    """Quantize by our recipe, the KV cache left alone as llm-compressor's schemes leave it."""
    out = place / "ours"
    out.mkdir(parents=True)
    recipe = dataclasses.replace(shipped()[name], kv_cache=Format.BF16)
    quantize(source, recipe, CALIBRATION, out, silent)
    return scored(out, place / "engine")


def _theirs(python: str, model: Path, rows: Path, name: str, place: Path) -> list[float]:
    out, (scheme, before) = place / "theirs", SAME[name]
    command = [python, "-c", WORKER, str(model), str(rows), scheme, before, str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=place)
    return scored(out, place / "its")


def scored(checkpoint: Path, place: Path) -> list[float]:
    """Return the mean negative log-likelihood of each window, in nats a token."""
    place.mkdir(parents=True)
    settings = EngineSettings(context=WINDOW, kv_cache=Format.BF16)
    engine.build("embedded", checkpoint, settings, place, silent)
    with engine.scorer(place) as scorer:
        scores = scorer.score(list(windows(scorer)))
    means = []
    for one in scores:
        values = one.logprobs.tolist()
        means.append(-fsum(values) / len(values))
    return means


def _change(found: list[float], plain: list[float]) -> float:
    return exp((fsum(found) - fsum(plain)) / len(plain)) - 1


def _against(mine: list[float], its: list[float]) -> str:
    apart = [one - other for one, other in zip(mine, its, strict=True)]
    count = len(apart)
    mean = fsum(apart) / count
    error = sqrt(fsum((x - mean) ** 2 for x in apart) / (count - 1) / count)
    wide = t_quantile(0.975, count - 1) * error
    return f"{exp(mean) - 1:+.2%} [{exp(mean - wide) - 1:+.2%}, {exp(mean + wide) - 1:+.2%}]"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
