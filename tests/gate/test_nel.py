"""Two accuracy verdicts that another gate gets wrong, in opposite ways; ours gets both right.

NeMo Evaluator 0.4.0: ten identical answers at a margin of 1 % are GO (a t interval without any
discordant pair has no width), and all of MMLU with 350 items lost and 350 won is INCONCLUSIVE (the
smallest effect is counted in discordant pairs, and read as accuracy).
"""

import json

import pytest

from builders.gate import foreign
from builders.gate.policy import Policy
from builders.verdict import Outcome


def judged(tmp_path, before, after, margin=0.01):
    for side, rewards in (("baseline", before), ("candidate", after)):
        folder = tmp_path / side / "mmlu"
        folder.mkdir(parents=True)
        lines = (
            {"problem_idx": number, "repeat": 0, "reward": float(reward)}
            for number, reward in enumerate(rewards)
        )
        (folder / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    policy = Policy.usual(["accuracy"])
    settings = dict(policy.gates)["accuracy"]
    assert settings.margin == margin
    (verdict,) = foreign.judge("accuracy", tmp_path / "baseline", tmp_path / "candidate", settings)
    return verdict


def flipped(lost, won, count=14042, right=9549):
    before = [1] * right + [0] * (count - right)
    after = [0] * lost + [1] * (right - lost) + [1] * won + [0] * (count - right - won)
    return before, after


def test_ten_identical_answers_prove_nothing_at_a_margin_of_one_percent(tmp_path):
    verdict = judged(tmp_path, [1] * 10, [1] * 10)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.high == pytest.approx(0.213, abs=0.001)  # not zero: it was only ten
    assert verdict.needed == 269


def test_all_of_mmlu_with_as_many_lost_as_won_passes(tmp_path):
    verdict = judged(tmp_path, *flipped(350, 350))
    assert verdict.outcome is Outcome.PASSED
    assert verdict.high < 0.0035


def test_all_of_mmlu_with_a_loss_of_a_point_and_a_half_fails(tmp_path):
    verdict = judged(tmp_path, *flipped(460, 250))
    assert verdict.worse_by == pytest.approx(210 / 14042)
    assert verdict.outcome is Outcome.FAILED
