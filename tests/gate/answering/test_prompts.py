"""The prompts gate: paired by prompt, fail-closed, and a failing server is no wrong answer."""

import json
from dataclasses import replace

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.answering import prompts
from builders.gate.answering.prompts import Interval, Settings
from builders.gate.evidence import Evidence
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scripted, opener

COUNT = 60


def questions(tmp_path, count=COUNT, **keys):
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"id": f"q{n}", "prompt": f"question {n}", "scorer": "contains", "expect": f"answer-{n}."}
        | keys
        for n in range(count)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def right(prompt, seed=0):
    return f"the answer-{prompt.split()[1]}. of course"


def wrong_on(*numbers, said="no idea at all"):
    return lambda prompt, seed: said if int(prompt.split()[1]) in numbers else right(prompt)


def measured(tmp_path, name, answers, settings, **script):
    out = tmp_path / name
    out.mkdir()
    endpoint = Scripted(answers, **script)
    prompts.measure(opener(endpoint), settings, out, silent)
    return out, endpoint


def judged(tmp_path, before, after, *, margin=0.1, **keys):
    group = keys.pop("group", "")
    settings = Settings(
        file=questions(tmp_path, group=group), margin=margin, confidence=0.95, **keys
    )
    old, _ = measured(tmp_path, "old", before, settings)
    new, _ = measured(tmp_path, "new", after, settings)
    (verdict,) = prompts.judge(old, new, settings)
    return verdict


def test_an_equal_candidate_passes_and_says_so_in_numbers(tmp_path):
    verdict = judged(tmp_path, wrong_on(3, 7), wrong_on(3, 7))
    assert verdict.outcome is Outcome.PASSED
    assert (verdict.gate, verdict.units, verdict.worse_by) == ("prompts", COUNT, 0.0)
    numbers = dict(verdict.numbers)
    assert numbers["baseline right"] == pytest.approx(58 / 60)
    assert numbers["length ratio"] == 1.0
    assert numbers["went worse"] == numbers["went better"] == 0.0


def test_a_candidate_that_lost_many_prompts_fails(tmp_path):
    verdict = judged(tmp_path, right, wrong_on(*range(20)))
    assert verdict.outcome is Outcome.FAILED
    assert verdict.worse_by == pytest.approx(20 / 60)
    assert "20 went worse and 0 better" in verdict.detail


def test_ten_identical_prompts_are_inconclusive_and_say_how_many_it_takes(tmp_path):
    settings = Settings(file=questions(tmp_path, count=10), margin=0.01, confidence=0.95)
    out, _ = measured(tmp_path, "old", right, settings)
    (verdict,) = prompts.judge(out, out, settings)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "units would settle it" in verdict.detail


def test_swaps_both_ways_are_counted_apart(tmp_path):
    verdict = judged(tmp_path, wrong_on(1, 2), wrong_on(2, 3))
    numbers = dict(verdict.numbers)
    assert (numbers["went worse"], numbers["went better"]) == (1.0, 1.0)
    assert verdict.worse_by == 0.0


def test_answers_that_fall_silent_are_told(tmp_path):
    verdict = judged(tmp_path, right, wrong_on(4, 5, said=""))
    numbers = dict(verdict.numbers)
    assert numbers["candidate empty"] == pytest.approx(2 / 60)
    assert numbers["empty rise, low"] < 2 / 60 < numbers["empty rise, high"]
    assert "show empty" not in verdict.detail  # two of sixty may be chance
    (tmp_path / "many").mkdir()
    assert (
        "more answers show empty"
        in judged(tmp_path / "many", right, wrong_on(*range(9), said="")).detail
    )


def test_longer_and_repeating_answers_show_beside_the_verdict(tmp_path):
    verdict = judged(tmp_path, right, lambda prompt, seed: right(prompt) + " so it is" * 6)
    numbers = dict(verdict.numbers)
    assert numbers["length ratio"] > 2
    assert numbers["candidate repetition"] > numbers["baseline repetition"] == 0.0


def test_several_samples_are_asked_under_their_own_seeds_and_averaged(tmp_path):
    settings = Settings(
        file=questions(tmp_path), margin=0.1, confidence=0.95, samples=3, temperature=0.7, seed=5
    )

    def sometimes(prompt, seed):
        return right(prompt) if seed == 6 else "nothing"

    old, endpoint = measured(tmp_path, "old", right, settings)
    new, _ = measured(tmp_path, "new", sometimes, settings)
    assert {asked["seed"] for asked in endpoint.asked} == {5, 6, 7}
    assert {asked["temperature"] for asked in endpoint.asked} == {0.7}
    (verdict,) = prompts.judge(old, new, settings)
    assert verdict.worse_by == pytest.approx(2 / 3)
    assert verdict.units == COUNT
    assert verdict.outcome is Outcome.FAILED


def test_prompts_of_one_group_count_as_one_cluster(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lost = wrong_on(*range(0, 60, 10))
    apart = judged(tmp_path / "a", right, lost)
    together = judged(tmp_path / "b", right, lost, group="all of them")
    assert together.high == apart.high  # a single group tells nothing of the spread between groups


def test_no_more_are_in_flight_than_asked_for(tmp_path):
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95, concurrency=5)
    _, endpoint = measured(tmp_path, "old", right, settings)
    assert endpoint.most_in_flight == 5
    assert len(endpoint.asked) == COUNT


def test_evidence_holds_the_answers_in_the_order_of_the_file(tmp_path):
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    out, _ = measured(tmp_path, "old", wrong_on(1), settings)
    found = Evidence.read(out, gate="prompts")
    assert [sample["unit"] for sample in found.samples] == [f"q{n}" for n in range(COUNT)]
    (answer,) = found.samples[1]["answers"]
    assert (answer["text"], answer["score"], answer["finish"]) == ("no idea at all", 0.0, "stop")
    assert answer["tokens"] == 4
    assert answer["seconds"] > 0


def test_answers_with_strange_line_ends_survive_the_evidence(tmp_path):
    strange = "answer-1. \u2028 \x85 \x0c \r end"
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    out, _ = measured(tmp_path, "old", wrong_on(1, said=strange), settings)
    assert Evidence.read(out, gate="prompts").samples[1]["answers"][0]["text"] == strange


def test_a_server_error_names_the_prompt_and_leaves_no_evidence(tmp_path):
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    with pytest.raises(EvidenceError, match="prompt q17: the model fell over"):
        measured(tmp_path, "old", right, settings, fails_on="question 17", survives=1)
    assert list((tmp_path / "old").iterdir()) == []


def test_the_endpoint_is_opened_inside_the_loop_and_closed_even_on_failure(tmp_path):
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    log: list[str] = []
    with pytest.raises(EvidenceError):
        prompts.measure(
            opener(Scripted(right, fails_on="question 0"), log=log), settings, tmp_path, silent
        )
    assert log == ["opened", "closed"]


def test_a_baseline_that_knows_nothing_is_no_instrument(tmp_path):
    with pytest.raises(EvidenceError, match=r"the baseline answers 0\.0% right"):
        judged(tmp_path, lambda prompt, seed: "nothing", right)


def test_evidence_of_other_prompts_is_not_compared(tmp_path):
    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    old, _ = measured(tmp_path, "old", right, settings)
    other = Settings(file=questions(tmp_path, expect="else"), margin=0.1, confidence=0.95)
    new, _ = measured(tmp_path, "new", right, other)
    with pytest.raises(EvidenceError, match="unit q0: the two models were given different expect"):
        prompts.judge(old, new, settings)


def test_the_table_is_read_strictly_and_files_lie_beside_the_policy(tmp_path):
    def parse(**keys):
        table = Table(keys, place="policy.toml", prefix="prompts.")
        return prompts.parse(table, beside=tmp_path, confidence=0.9)

    settings = parse(file="mine.jsonl", margin=0.05)
    assert settings.file == tmp_path / "mine.jsonl"
    assert (settings.margin, settings.confidence, settings.samples) == (0.05, 0.9, 1)
    with pytest.raises(UsageError, match=r"unknown key prompts\.margins"):
        parse(margins=0.05)
    with pytest.raises(UsageError, match="one answer, repeated"):
        parse(samples=3)


def test_a_faulty_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    settings = Settings(file=tmp_path / "prompts.jsonl", margin=0.1, confidence=0.95)
    with pytest.raises(UsageError, match=r"prompts\.jsonl:1: "):
        prompts.check(settings)


def test_margins_are_no_part_of_the_measurement_and_prompts_are(tmp_path):
    loose = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    strict = Settings(file=loose.file, margin=0.01, confidence=0.99)
    first = prompts.inputs(loose)
    assert prompts.inputs(strict) == first
    questions(tmp_path, count=59)
    assert prompts.inputs(loose) != first


def test_progress_reaches_its_end(tmp_path):
    seen = []

    def listen(what, done, total, *, unit=""):
        seen.append((done, total, unit))

    settings = Settings(file=questions(tmp_path), margin=0.1, confidence=0.95)
    prompts.measure(opener(Scripted(right)), settings, tmp_path, listen)
    assert seen[-1] == (COUNT, COUNT, "answers")
    assert [done for done, _, _ in seen] == list(range(1, COUNT + 1))


def test_habits_and_length_are_judged_where_the_policy_sets_a_margin(tmp_path):
    settings = Settings(
        file=questions(tmp_path),
        margin=0.1,
        confidence=0.95,
        habits=(("length", 0.1), ("repetition", 0.2)),
    )
    old, _ = measured(tmp_path, "old", right, settings)
    new, _ = measured(tmp_path, "new", lambda p, seed: right(p) + " and so on" * 9, settings)
    verdicts = {verdict.gate: verdict.outcome for verdict in prompts.judge(old, new, settings)}
    assert verdicts == {
        "prompts": Outcome.PASSED,
        "prompts.length": Outcome.FAILED,
        "prompts.repetition": Outcome.FAILED,
    }


def test_graded_scores_may_be_bounded_by_the_bootstrap(tmp_path):
    path = questions(tmp_path, scorer="rouge-l", expect="answer one two three four")
    settings = Settings(file=path, margin=0.3, confidence=0.95, interval=Interval.BCA)

    def says(words):
        return lambda prompt, seed: " ".join(["answer", "one", "two", "three", "four"][:words])

    old, _ = measured(tmp_path, "old", says(5), settings)
    new, _ = measured(
        tmp_path, "new", lambda p, seed: says(3 + int(p.split()[1]) % 3)(p, seed), settings
    )
    (verdict,) = prompts.judge(old, new, settings)
    assert "bounded by the bootstrap (BCa)" in verdict.detail
    assert verdict.outcome is Outcome.PASSED
    (same,) = prompts.judge(old, old, settings)
    assert "too few prompts differ for the bootstrap" in same.detail
    assert same.high > 0


def test_a_scorer_of_the_users_own_needs_the_policys_word(tmp_path):
    (tmp_path / "mine.py").write_text("def half(prompt, answer):\n    return 0.5\n")
    path = questions(tmp_path, scorer="mine:half")
    settings = Settings(file=path, margin=0.1, confidence=0.95)
    with pytest.raises(UsageError, match="the policy does not let mine:half run"):
        prompts.check(settings)
    allowed = replace(settings, own=("mine:half",))
    prompts.check(allowed)
    out, _ = measured(tmp_path, "old", right, allowed)
    assert Evidence.read(out, gate="prompts").samples[0]["answers"][0]["score"] == 0.5
    before = prompts.inputs(allowed)
    (tmp_path / "mine.py").write_text("def half(prompt, answer):\n    return 0.6\n")
    assert prompts.inputs(allowed) != before


@pytest.mark.parametrize("key", ["length_margin", "empty_margin", "refusal_margin"])
def test_a_margin_that_allows_everything_is_refused(tmp_path, key):
    for margin in (0, 1):
        table = Table({key: margin}, place="policy.toml", prefix="prompts.")
        with pytest.raises(UsageError, match="is not between 0 and 1"):
            prompts.parse(table, beside=tmp_path, confidence=0.95)
