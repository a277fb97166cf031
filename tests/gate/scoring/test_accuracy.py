"""The accuracy gate judges from evidence: paired, fail-closed, never through a blind instrument."""

import random
from dataclasses import replace

import pytest

from builders.errors import EvidenceError, ToolError, UsageError
from builders.gate import evidence
from builders.gate.scoring import accuracy
from builders.parse import Table
from builders.verdict import Outcome


def settings(folder, **values):
    data = {"task": "mine.yaml", "margin": 0.05, **values}
    return accuracy.parse(Table(data, place="p.toml"), beside=folder, confidence=0.95)


def sample(number, *, right, choices=4, **more):
    values = [-5.0 - place for place in range(choices)]
    return {
        "unit": f"mine/{number}",
        "cluster": str(number % 7),
        "choices": choices,
        "choice": 0 if right else 1,
        "right": int(right),
        "loglikelihoods": values,
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}",
        "target_hash": f"t{number}",
        **more,
    }


def kept(folder, samples):
    folder.mkdir()
    evidence.write(folder, gate="accuracy", settings={}, samples=samples)
    return folder


def judged(tmp_path, ours, theirs, **values):
    folders = kept(tmp_path / "a", ours), kept(tmp_path / "b", theirs)
    (verdict,) = accuracy.judge(*folders, settings(tmp_path, **values))
    return verdict


def answers(count, wrong=(), **more):
    return [sample(number, right=number not in wrong, **more) for number in range(count)]


def test_a_candidate_that_loses_as_many_as_it_wins_passes_and_its_flips_are_counted(tmp_path):
    verdict = judged(tmp_path, answers(400, range(8)), answers(400, range(4, 12)), margin=0.03)
    assert (verdict.worse_by, verdict.outcome) == (0.0, Outcome.PASSED)
    numbers = dict(verdict.numbers)
    assert (numbers["right to wrong"], numbers["wrong to right"]) == (4.0, 4.0)
    assert numbers["share of answers that changed"] == 8 / 400
    assert verdict.detail.startswith("392 → 392 right of 400: 4 lost, 4 won")


def test_a_candidate_that_loses_many_fails(tmp_path):
    verdict = judged(tmp_path, answers(400), answers(400, range(60)))
    assert verdict.worse_by == 0.15
    assert verdict.outcome is Outcome.FAILED


def test_ten_equal_answers_are_inconclusive_and_say_how_many_would_do(tmp_path):
    verdict = judged(tmp_path, answers(10), answers(10), margin=0.01)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "about 269 units would settle it" in verdict.detail


def test_not_significantly_different_is_not_a_pass(tmp_path):
    """McNemar's test sees nothing (p > 0.05), and two points may be lost all the same."""
    verdict = judged(tmp_path, answers(200, range(4)), answers(200, range(2, 10)), margin=0.02)
    assert dict(verdict.numbers)["McNemar's p (reported, not judged by)"] > 0.05
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_clusters_widen_the_bounds_where_whole_clusters_turn(tmp_path):
    wrong = [number for number in range(400) if number % 7 == 3][:20]
    plain = judged(tmp_path, answers(400), answers(400, wrong))
    (tmp_path / "c").mkdir()
    folders = tmp_path / "a", tmp_path / "b"
    (clustered,) = accuracy.judge(*folders, settings(tmp_path, cluster="subject"))
    assert clustered.high > plain.high
    assert clustered.low < plain.low


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    ours, theirs = answers(50, range(5)), answers(50, range(9))
    shuffled = random.Random(0).sample(theirs, len(theirs))
    straight = judged(tmp_path, ours, theirs)
    folder = kept(tmp_path / "c", shuffled)
    assert accuracy.judge(tmp_path / "a", folder, settings(tmp_path)) == (straight,)


def test_a_baseline_at_chance_is_void(tmp_path):
    with pytest.raises(EvidenceError, match="right in 27 of 100 items and guessing would be in 25"):
        judged(tmp_path, answers(100, range(73)), answers(100))


def test_the_number_of_choices_sets_what_chance_is(tmp_path):
    ours = answers(100, range(55), choices=2)
    with pytest.raises(EvidenceError, match="guessing would be in 50"):
        judged(tmp_path, ours, ours)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 0.0], [-3.5, -3.5, -3.5, -3.5]])
def test_a_runtime_that_likes_all_choices_equally_is_void_even_if_it_is_always_right(
    tmp_path, values
):
    blind = [{**one, "loglikelihoods": values} for one in answers(100)]
    with pytest.raises(EvidenceError, match="for the candidate all choices are equally likely"):
        judged(tmp_path, answers(100), blind)
    with pytest.raises(EvidenceError, match="for the baseline all choices are equally likely"):
        accuracy.judge(tmp_path / "b", tmp_path / "a", settings(tmp_path))


def test_models_that_were_asked_different_questions_are_not_compared(tmp_path):
    other = [{**one, "prompt_hash": "x"} for one in answers(20)]
    with pytest.raises(EvidenceError, match="unit mine/0: the two models were given different"):
        judged(tmp_path, answers(20), other)


def test_items_of_one_model_only_are_named(tmp_path):
    with pytest.raises(EvidenceError, match="mine/19 was measured for the baseline only"):
        judged(tmp_path, answers(20), answers(19))


def test_a_margin_is_no_part_of_the_key_and_everything_else_is(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    plain = settings(tmp_path)
    key = accuracy.inputs(plain)
    assert accuracy.inputs(replace(plain, margin=0.2, confidence=0.9)) == key
    changes = {"metric": "acc_norm", "shots": 5, "limit": 9, "seed": 1, "cluster": "task"}
    for name, value in changes.items():
        assert accuracy.inputs(settings(tmp_path, **{name: value})) != key
    (tmp_path / "helper.py").write_text("x = 1\n")
    assert accuracy.inputs(plain) != key


def test_a_task_is_a_file_beside_the_policy_or_a_name(tmp_path):
    assert settings(tmp_path, task="tasks/a.yaml").path == tmp_path / "tasks/a.yaml"
    assert settings(tmp_path, task="mmlu").path is None
    with pytest.raises(UsageError, match="no such file"):
        accuracy.check(settings(tmp_path, task="tasks/a.yaml"))
    accuracy.check(settings(tmp_path, task="mmlu"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"shots": -2}, "shots must be"),
        ({"limit": -1}, "limit must be"),
        ({"metrics": "acc"}, "unknown key metrics"),
        ({"task": 3}, "task must be a string"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, error):
    with pytest.raises(UsageError, match=error):
        settings(tmp_path, **change)


def test_without_lm_eval_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "HARNESS", "builders.gate.no_such_harness")
    with pytest.raises(ToolError, match=r"needs builders\.gate\.no_such_harness") as error:
        accuracy.measure(None, settings(tmp_path, task="mmlu"), tmp_path, None)
    assert "enginesmith[eval]" in error.value.hint


def test_more_items_of_the_kind_narrow_the_bounds_and_leave_the_estimate(tmp_path):
    folders = kept(tmp_path / "a", answers(60)), kept(tmp_path / "b", answers(60, range(2)))
    before, after = (evidence.Evidence.read(folder, gate="accuracy") for folder in folders)
    (once,) = accuracy.compare(before, after, settings(tmp_path))
    (often,) = accuracy.compare(before, after, settings(tmp_path), more=10)
    assert once.worse_by == often.worse_by
    assert once.low < often.low < often.high < once.high


def test_an_alarm_counts_changed_answers_against_those_of_the_baseline_itself(tmp_path):
    ours, theirs = answers(100, range(50)), answers(100, range(8, 58))
    folders = kept(tmp_path / "a", ours), kept(tmp_path / "b", theirs)
    before, after = (evidence.Evidence.read(folder, gate="accuracy") for folder in folders)
    alarmed, calm = (
        accuracy.compare(
            before,
            after,
            settings(tmp_path, flips=0.05),
            again=replace(after, samples=tuple(again)),
        )[0]
        for again in (ours[:20], [*answers(2, [0, 1])[:1], *ours[1:19], *answers(20)[19:]])
    )
    assert "alarm: 16.0% of the answers changed, 5.0% are usual" in alarmed.detail
    assert dict(calm.numbers)["answers of the baseline that changed when asked twice"] == 0.05
    assert "alarm: 16.0% of the answers changed, 15.0% are usual" in calm.detail
