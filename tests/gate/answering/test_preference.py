"""A judge compares answers in both orders, and one that cannot see is no judge."""

import json
from dataclasses import replace

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.answering import preference, referee
from builders.gate.answering.preference import Settings
from builders.gate.evidence import Evidence
from builders.gate.speed.latency import Pair
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scripted, opener
from fakes.judges import first_place, fitting, judging, shown, undecided

COUNT = 60


def questions(tmp_path, count=COUNT, **keys):
    lines = [
        {"id": f"q{n}", "prompt": f"question {n}", "scorer": "exact"} | keys for n in range(count)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def right(prompt, seed=0):
    return f"the answer-{prompt.split()[1]}. of course"


def wrong_below(limit):
    return lambda prompt, seed: right(prompt) if int(prompt.split()[1]) >= limit else "no idea"


def measured(tmp_path, before, after, opinion, **keys):
    models, status = keys.pop("models", ("judge-1",)), keys.pop("status", 200)
    made = {"group": keys.pop("group", "")}
    subject = Pair(baseline=opener(Scripted(before)), candidate=opener(Scripted(after)))
    with judging(opinion, models=models, status=status) as (url, asked):
        settings = Settings(
            file=questions(tmp_path, **made),
            judge_url=url,
            judge_model="judge",
            confidence=0.95,
            **{"margin": 0.1} | keys,
        )
        (tmp_path / "out").mkdir(exist_ok=True)
        preference.measure(subject, settings, tmp_path / "out", silent)
    return settings, asked


def judged(tmp_path, before, after, opinion=fitting, **keys):
    settings, _ = measured(tmp_path, before, after, opinion, **keys)
    (verdict,) = preference.judge(tmp_path / "out", tmp_path / "out", settings)
    return verdict


def test_a_candidate_that_answers_alike_passes(tmp_path):
    verdict = judged(tmp_path, right, lambda prompt, seed: right(prompt) + " yes")
    assert verdict.outcome is Outcome.PASSED
    assert (verdict.gate, verdict.units, verdict.worse_by) == ("preference", COUNT, 0.0)
    assert dict(verdict.numbers)["ties"] == 1.0


def test_a_candidate_that_loses_many_duels_fails(tmp_path):
    verdict = judged(tmp_path, right, wrong_below(30))
    assert verdict.outcome is Outcome.FAILED
    assert verdict.worse_by == pytest.approx(0.25)  # half of the duels lost, the others ties
    assert dict(verdict.numbers)["baseline won"] == pytest.approx(60 / 90)  # ties are asked once


def test_a_candidate_that_wins_passes(tmp_path):
    verdict = judged(tmp_path, wrong_below(12), right)
    assert verdict.outcome is Outcome.PASSED
    assert verdict.worse_by == pytest.approx(-0.1)


def test_ten_prompts_prove_nothing(tmp_path):
    settings, _ = measured(tmp_path, right, right, fitting)
    lines = (tmp_path / "out/samples.jsonl").read_text().splitlines()[:10]
    (tmp_path / "out/samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    meta = json.loads((tmp_path / "out/meta.json").read_text()) | {"units": 10}
    (tmp_path / "out/meta.json").write_text(json.dumps(meta))
    (verdict,) = preference.judge(tmp_path / "out", tmp_path / "out", settings)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_every_duel_is_shown_in_both_orders_and_equal_answers_are_not_asked_about(tmp_path):
    _, asked = measured(tmp_path, right, wrong_below(5), fitting)
    seen = [shown(one["messages"][0]["content"]) for one in asked]
    duels = [
        (prompt, first, second) for prompt, first, second in seen if "no idea" in first + second
    ]
    assert len(duels) == 10
    assert {(prompt, second, first) for prompt, first, second in duels} == set(duels)
    assert len(asked) == 10 + 2 * 20  # twenty controls
    assert {one["temperature"] for one in asked} == {0}


def test_a_judge_that_prefers_a_place_is_void(tmp_path):
    with pytest.raises(EvidenceError, match="the judge tells only 0 of 20 answers from answers to"):
        judged(tmp_path, right, wrong_below(30), first_place)


def test_a_judge_without_verdicts_is_void(tmp_path):
    with pytest.raises(EvidenceError, match="of the judge's replies have no verdict"):
        judged(tmp_path, right, wrong_below(30), undecided)


def test_a_judge_that_changes_is_void(tmp_path):
    with pytest.raises(EvidenceError, match="the judge changed while it judged: judge-1, judge-2"):
        judged(tmp_path, right, right, models=("judge-1", "judge-2"))


def test_answers_that_are_all_alike_cannot_try_a_judge(tmp_path):
    with pytest.raises(EvidenceError, match="only 0 answers of the baseline differ"):
        judged(tmp_path, lambda prompt, seed: "same", right)


def test_a_judge_that_fails_is_named_with_the_prompt(tmp_path):
    with pytest.raises(EvidenceError, match=r"prompt q\d+: the judge: .*no such judge"):
        judged(tmp_path, right, right, status=404)


def test_a_judge_that_is_not_there_is_named(tmp_path):
    settings, _ = measured(tmp_path, right, right, fitting)
    subject = Pair(baseline=opener(Scripted(right)), candidate=opener(Scripted(right)))
    with pytest.raises(EvidenceError, match=r"prompt q\d+: the judge: http"):
        preference.measure(subject, settings, tmp_path, silent)


def test_the_model_that_judged_is_in_the_evidence(tmp_path):
    measured(tmp_path, right, wrong_below(30), fitting)
    found = Evidence.read(tmp_path / "out", gate="preference")
    (first, second), *_ = found.samples[0]["duels"]
    assert {first["first"], second["first"]} == {"baseline", "candidate"}
    assert (first["model"], first["winner"]) == ("judge-1", "baseline")
    assert found.samples[0]["answers"]["candidate"] == ["no idea"]


def test_groups_are_clusters(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    apart = judged(tmp_path / "a", right, wrong_below(6))
    together = judged(tmp_path / "b", right, wrong_below(6), group="one")
    assert together.high == apart.high  # a single group tells nothing of the spread


def test_the_key_comes_from_the_environment(tmp_path, monkeypatch):
    keys = {"key_variable": "JUDGE_KEY"}
    with pytest.raises(UsageError, match="names JUDGE_KEY, which is not set"):
        measured(tmp_path, right, right, fitting, **keys)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    settings, asked = measured(tmp_path, right, right, fitting, **keys)
    assert {one["key"] for one in asked} == {"Bearer secret"}
    assert "secret" not in json.dumps(preference.inputs(settings))


def test_sides_measured_apart_are_not_compared(tmp_path):
    settings, _ = measured(tmp_path, right, right, fitting)
    with pytest.raises(EvidenceError, match="measured in one run"):
        preference.judge(tmp_path / "out", tmp_path, settings)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("[[A]]", "A"),
        ("At first [[A]], but then [[ B ]]", "B"),
        ("B.", "B"),
        ("**C**", "C"),
        ("A better one", ""),
        ("", ""),
    ],
)
def test_a_reply_is_read_by_its_last_verdict(reply, letter):
    assert referee.verdict(reply) == letter


def test_the_table_is_read_strictly(tmp_path):
    def parse(**keys):
        given = {"judge_url": "http://localhost:1/v1", "judge_model": "m"} | keys
        table = Table(given, place="policy.toml", prefix="preference.")
        return preference.parse(table, beside=tmp_path, confidence=0.9)

    settings = parse(file="mine.jsonl", margin=0.05)
    assert (settings.file, settings.margin) == (tmp_path / "mine.jsonl", 0.05)
    for keys, complaint in (
        ({"judge_model": 3}, "judge_model must be a string"),
        ({"controls": 3}, "controls must be a whole number of at least 8"),
        ({"samples": 3}, "one answer, repeated"),
        ({"margins": 1}, r"unknown key preference\.margins"),
    ):
        with pytest.raises(UsageError, match=complaint):
            parse(**keys)
    first = preference.inputs(replace(settings, file=questions(tmp_path)))
    assert first["judge"] == "m"


def test_a_faulty_file_is_refused_before_any_work(tmp_path):
    settings = Settings(
        file=tmp_path / "prompts.jsonl", judge_url="", judge_model="m", confidence=0.95
    )
    for text, complaint in (
        ('{"prompt": "a"}\n', "1 prompts"),
        ('{"prompt": "a"}\n{"id": 3, "prompt": "b"}\n', ":2: id must be a string"),
        ('{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', ":2: id 'x' stands"),
    ):
        settings.file.write_text(text)
        with pytest.raises(UsageError, match=complaint):
            preference.check(settings)
