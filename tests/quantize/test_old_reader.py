"""What we write reads the same in transformers 4.57, which TensorRT-LLM up to 1.2 carries.

Runs where that version has an environment of its own: set OLD_TRANSFORMERS=1 once to make one in
.enginesmith/ (a minute, it borrows the present torch), and it is used from then on.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from transformers import AutoConfig

from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.interchange import settings
from builders.recipe import shipped

VERSION = "4.57.6"
VENV = Path(__file__).parents[2] / ".enginesmith" / f"transformers-{VERSION}"
READY = VENV / "ready"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
}  # fmt: skip
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 70000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
    | {"original_max_position_embeddings": 128},
    "llama3": LLAMA3,
}
READ = """
import json, sys
from transformers import AutoConfig, AutoTokenizer, __version__
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
def read(path):
    config = AutoConfig.from_pretrained(path)
    words = AutoTokenizer.from_pretrained(path)
    return {
        "turns": LlamaRotaryEmbedding(config).inv_freq.tolist(),
        "ids": words("def item(self, n): return self[n]  # a caf\\u00e9")["input_ids"],
        "ends": [words.eos_token_id, words.bos_token_id, words.pad_token_id],
        "chat": words.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False),
        "shape": [config.hidden_size, config.num_hidden_layers, config.vocab_size],
        "context": config.max_position_embeddings,
        "tied": config.tie_word_embeddings,
        "dtype": str(config.torch_dtype).removeprefix("torch."),
        "method": (getattr(config, "quantization_config", None) or {}).get("quant_method"),
    }
print(json.dumps({"version": __version__} | {path: read(path) for path in sys.argv[1:]}))
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not READY.is_file() and "OLD_TRANSFORMERS" not in os.environ,
        reason=f"no environment with transformers {VERSION} (set OLD_TRANSFORMERS=1 to make it)",
    ),
]


def _read(python, paths) -> dict:
    command = [python, "-c", READ, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> Path:
    """Return the old version's interpreter, made on first use."""
    python = VENV / "bin" / "python"
    if not READY.is_file():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        wanted = [f"transformers=={VERSION}", "jinja2"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        (site,) = VENV.glob("lib/python*/site-packages")
        present = sysconfig.get_paths()["purelib"]  # after its own: torch comes from there
        (site / "present.pth").write_text(f"{present}\n")
        READY.write_text(VERSION)
    return python


def _source(source, path: Path) -> Path:
    """Write a source as transformers 5 saves it: scaled rotation in the new form, a template."""
    shutil.copytree(source.path, path)
    _change(path / "config.json", rope_parameters=LLAMA3)
    _change(path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (path / "chat_template.jinja").write_text(template)
    return path


def _change(file: Path, **said) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | said))


def _ours(original: Path, path: Path, rope) -> Path:
    """Write the settings of a model with this rotation as we write them."""
    shutil.copytree(original, path, ignore=shutil.ignore_patterns("*.safetensors"))
    _change(path / "config.json", rope_parameters=rope)
    given = json.loads((path / "config.json").read_text())
    resolved = AutoConfig.from_pretrained(path).to_dict()
    (path / "config.json").write_text(json.dumps(settings(given, resolved)))
    return path


@pytest.fixture(scope="session")
def readings(source, calibration, tmp_path_factory):
    """What the old and the new version read, of a source, its export, and every rotation."""
    root = tmp_path_factory.mktemp("old")
    original = _source(source, root / "source")
    (root / "fp8").mkdir()
    quantize(Checkpoint.open(original), shipped()["fp8"], calibration, root / "fp8", silent)
    for name, rope in ROPES.items():
        _ours(original, root / name, rope)
    names = ["source", "fp8", *ROPES]
    paths = [str(root / name) for name in names]
    old, new = (_read(python, paths) for python in (_environment(), sys.executable))
    assert old["version"] == VERSION != new["version"]
    return {name: (old[path], new[path]) for name, path in zip(names, paths, strict=True)}


def test_an_export_reads_in_the_old_version_as_its_source_does_in_the_new(readings):
    ours, wanted = readings["fp8"][0], readings["source"][1]
    assert ours == wanted | {"method": "modelopt"}
    assert readings["fp8"][1] == ours


def test_the_old_version_would_misread_the_source_itself(readings):
    old, new = readings["source"]
    assert old["turns"] != new["turns"]


@pytest.mark.parametrize("rope", ROPES)
def test_both_versions_turn_alike_by_our_settings(readings, rope):
    old, new = readings[rope]
    assert old["turns"] == new["turns"]


def test_each_rotation_is_another_one(readings):
    assert len({tuple(readings[name][1]["turns"]) for name in ROPES}) >= 4
