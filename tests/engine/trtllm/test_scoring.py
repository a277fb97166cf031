"""TensorRT-LLM's context logits become the scores of the embedded runtime, or a named error.

TensorRT-LLM itself is a stand-in here: what is proved is how it is asked, and what is refused.
"""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builders import engine
from builders.emit import render_yaml
from builders.engine.description import Description, EngineSettings
from builders.engine.embedded.model import Embedded
from builders.engine.trtllm.score_worker import batches
from builders.engine.trtllm.scoring import TrtllmScorer
from builders.errors import EvidenceError, PlanError, ToolError
from builders.formats import Format
from builders.progress import silent
from fakes.checkpoints import DEMO

PACKAGES = Path(__file__).parents[2] / "fakes" / "trtllm_scoring"
ARGUMENTS = {
    "tensor_parallel_size": 1,
    "max_batch_size": 4,
    "max_num_tokens": 64,
    "max_seq_len": 128,
    "enable_chunked_prefill": True,
    "kv_cache_config": {"dtype": "auto", "enable_block_reuse": True},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAKE_TRTLLM_OUT", str(tmp_path))
    monkeypatch.setenv("FAKE_TRTLLM", "toy")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES))
    return tmp_path


def built(folder, lane="llmapi", *, gather=True):
    """An engine directory of either lane, as its builder lays it out."""
    made = folder / lane
    shutil.copytree(DEMO, made / "checkpoint")
    if lane == "llmapi":
        (made / "llm_api.yaml").write_text(render_yaml(ARGUMENTS))
    else:
        shutil.copytree(DEMO, made / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
        config = {"version": "1.2.1", "pretrained_config": {}}
        config["build_config"] = {"gather_context_logits": gather, "max_seq_len": 128}
        (made / "config.json").write_text(json.dumps(config))
    settings = EngineSettings(context=128)
    Description(runtime=lane, version="1.2.1", settings=settings, quantization="").write(made)
    return made


@pytest.fixture
def rows():
    dice = random.Random(3)
    shared = [dice.randrange(4096) for _ in range(70)]
    return [[*shared, 5, 6], [*shared, 7], [9], [dice.randrange(4096) for _ in range(127)]]


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["llmapi", "tensorrt"])
def test_scores_equal_those_of_the_embedded_runtime(home, monkeypatch, rows, lane):
    monkeypatch.setenv("FAKE_TRTLLM", "")
    with engine.scorer(built(home, lane)) as scorer:
        found, likely = scorer.score(rows), scorer.distributions(rows, 4)
        assert scorer.prefix == 0
    out = home / "embedded"
    engine.build("embedded", DEMO, EngineSettings(context=128, dtype=Format.FP32), out, silent)
    with Embedded.load(out, device="cpu") as model:
        expected, also = model.score(rows), model.distributions(rows, 4)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logprobs.tolist() == pytest.approx(theirs.logprobs.tolist(), abs=2e-4)
        assert list(map(bool, ours.greedy.tolist())) == theirs.greedy.tolist()
    for ours, theirs in zip(likely, also, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()


def test_only_what_would_leave_logits_out_is_asked_otherwise(home, rows):
    with engine.scorer(built(home)) as scorer:
        assert [len(one.logprobs) for one in scorer.score(rows)] == [len(row) - 1 for row in rows]
    asked = json.loads((home / "arguments.json").read_text())
    changed = {name: value for name, value in asked.items() if ARGUMENTS.get(name) != value}
    assert changed.pop("model") == changed.pop("tokenizer") == str(home / "llmapi" / "checkpoint")
    assert changed == {
        "enable_chunked_prefill": False,
        "max_num_tokens": 128,
        "kv_cache_config": {"dtype": "auto", "enable_block_reuse": False},
    }


def test_a_loaded_engine_answers_again_and_in_any_order(home, rows):
    with engine.scorer(built(home)) as scorer:
        together = scorer.score(rows)
        alone = [scorer.score([row])[0] for row in reversed(rows)][::-1]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs.tolist() == pytest.approx(other.logprobs.tolist(), abs=1e-5)


def test_progress_counts_tokens_to_the_end(home, rows):
    said = []
    with engine.scorer(built(home)) as scorer:
        scorer.score(rows, progress=lambda *told, unit: said.append((*told, unit)))
    total = sum(map(len, rows))
    assert said[0] == ("score", 0, total, "tokens")
    assert said[-1] == ("score", total, total, "tokens")


def test_padding_of_the_vocabulary_has_no_share_of_the_probability(home, monkeypatch, rows):
    place = built(home)
    with engine.scorer(place) as scorer:
        plain = scorer.score(rows)
    monkeypatch.setenv("FAKE_TRTLLM", "toy padded")
    with engine.scorer(place) as scorer:
        padded = scorer.score(rows)
    for one, other in zip(plain, padded, strict=True):
        assert one.logprobs.tolist() == pytest.approx(other.logprobs.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("cut", EvidenceError, "71 logits came for 72 tokens"),
        ("nan", EvidenceError, "is nan, not a finite number"),
        ("narrow", EvidenceError, "100 logits a place for a vocabulary of 4096"),
        ("swap", EvidenceError, "it read other tokens than were sent"),
        ("mute", EvidenceError, "the engine returns no context logits"),
        ("crash", ToolError, "exited 9"),
    ],
)
def test_what_cannot_be_believed_is_an_error_with_a_hint(
    home, monkeypatch, rows, fault, error, said
):
    monkeypatch.setenv("FAKE_TRTLLM", f"toy {fault}")
    with engine.scorer(built(home)) as scorer, pytest.raises(error, match=said) as caught:
        scorer.score(rows)
    assert caught.value.hint


def test_an_engine_that_cannot_be_loaded_says_why_in_one_line(home, monkeypatch):
    monkeypatch.setenv("FAKE_TRTLLM", "toy out-of-memory")
    place = built(home)
    with pytest.raises(ToolError, match=r"could not load .*: CUDA out of memory$") as caught:
        TrtllmScorer(place)
    log = home / "home" / "runs" / "score-trtllm.log"
    assert str(log) in caught.value.hint
    assert "and a long story" in log.read_text()


def test_without_tensorrt_llm_the_error_names_it(home, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(ToolError, match="TensorRT-LLM cannot be imported: No module named"):
        TrtllmScorer(built(home))


def test_a_compiled_engine_without_context_logits_is_refused_before_it_is_loaded(home):
    with pytest.raises(PlanError, match="built without context logits") as caught:
        TrtllmScorer(built(home, "tensorrt", gather=False))
    assert "--gather_context_logits" in caught.value.hint
    assert not (home / "home" / "runs").exists()


def test_rows_that_do_not_fit_are_refused_and_nothing_is_asked(home):
    with engine.scorer(built(home)) as scorer:
        with pytest.raises(EvidenceError, match="row 0 has 128 tokens, the model's context is 127"):
            scorer.score([[5] * 128])
        with pytest.raises(EvidenceError, match="outside the vocabulary"):
            scorer.score([[5, 4096]])


def test_batches_hold_every_row_once_and_no_more_than_fits():
    rows = [[0] * length for length in (3, 3, 9, 1, 1, 1)]
    cut = list(batches(rows, 6))
    assert [len(batch) for batch in cut] == [2, 1, 3]
    assert [row for batch in cut for row in batch] == rows


def test_settings_of_the_engine_give_the_context(home):
    place = built(home)
    said = Description.read(place)
    Description(**{**{f: getattr(said, f) for f in ("runtime", "version", "quantization")},
                   "settings": replace(said.settings, context=64)}).write(place)  # fmt: skip
    with engine.scorer(place) as scorer:
        assert scorer.context == 63
