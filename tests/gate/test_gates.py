"""Both scoring gates on the real demo model: rounding passes, damage fails, and both are seen."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from builders.gate import load
from builders.gate.policy import Policy
from builders.progress import silent
from builders.scorer import Scorer
from builders.verdict import Outcome
from fakes.scorers import Transformers

DEMO = Path(__file__).parents[2] / "demo"
POLICY = """
[perplexity]
corpus = ["data/corpus.jsonl"]
window = 256
windows = 16
margin = 0.05

[accuracy]
task = "tasks/continuation.yaml"
limit = 80
margin = 0.10
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run(
        [sys.executable, DEMO / "make_data.py", folder / "data"], check=True, capture_output=True
    )
    (folder / "tasks").mkdir()
    task = (DEMO / "tasks/continuation.yaml").read_text()
    (folder / "tasks/continuation.yaml").write_text(task)
    (folder / "policy.toml").write_text(POLICY)
    policy = Policy.read(folder / "policy.toml")
    policy.check()
    return policy


def measured(folder: Path, scorer: Scorer, policy: Policy) -> Path:
    for name, settings in policy.gates:
        (folder / name).mkdir(parents=True)
        load(name).measure(scorer, settings, folder / name, silent)
    return folder


@pytest.fixture(scope="module")
def baseline(policy, tmp_path_factory):
    return measured(tmp_path_factory.mktemp("baseline"), Transformers(DEMO / "model"), policy)


def judged(policy, baseline, candidate):
    return {
        name: load(name).judge(baseline / name, candidate / name, settings)[0]
        for name, settings in policy.gates
    }


@pytest.mark.slow
def test_rounding_to_bfloat16_is_no_harm(policy, baseline, tmp_path):
    scorer = Transformers(DEMO / "model")
    scorer.model.to(torch.bfloat16)
    verdicts = judged(policy, baseline, measured(tmp_path, scorer, policy))
    assert {verdict.outcome for verdict in verdicts.values()} == {Outcome.PASSED}
    assert verdicts["perplexity"].high < 0.005
    assert verdicts["perplexity"].high != verdicts["perplexity"].low


@pytest.mark.slow
def test_a_damaged_model_fails_both_gates(policy, baseline, tmp_path):
    scorer = Transformers(DEMO / "model")
    torch.manual_seed(0)
    for weight in scorer.model.parameters():
        if weight.ndim == 2:
            weight.data += 0.5 * weight.std() * torch.randn_like(weight)
    verdicts = judged(policy, baseline, measured(tmp_path, scorer, policy))
    assert {verdict.outcome for verdict in verdicts.values()} == {Outcome.FAILED}
