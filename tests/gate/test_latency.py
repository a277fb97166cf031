"""The latency gate judged against endpoints whose true times are known, and its refusals."""

import json
from dataclasses import replace
from time import perf_counter

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate import latency
from builders.gate.blocks import BASELINE, CANDIDATE, Block, Timing
from builders.gate.evidence import Evidence, write
from builders.gate.latency import Pair, Settings
from builders.gate.replay import Load
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scheduled, Scripted, opener

LOAD = Load(pairs=4, requests=6, warm_up=1, output_tokens=5, concurrency=3, timeout=30.0)
# A busy machine may make the client late; here that is looked at in one test only.
SETTINGS = Settings(
    load=LOAD, confidence=0.95, ttft_margin=0.05, itl_margin=0.05, tps_margin=0.05, client_share=1e6
)


def pair(baseline, candidate, log=None):
    return Pair(baseline=opener(baseline, log=log), candidate=opener(candidate, log=log))


def judged(tmp_path, baseline, candidate, settings=SETTINGS):
    latency.measure(pair(baseline, candidate), settings, tmp_path, silent)
    return {
        verdict.gate.removeprefix("latency."): verdict
        for verdict in latency.judge(tmp_path, tmp_path, settings)
    }


def test_a_candidate_three_times_slower_fails_on_every_measure(tmp_path):
    verdicts = judged(tmp_path, Scheduled(0.02, 0.005), Scheduled(0.06, 0.015))
    assert verdicts.keys() == {"ttft_p50", "itl_p50", "tps"}
    for verdict in verdicts.values():
        assert verdict.outcome is Outcome.FAILED
        assert verdict.units == 4
        assert verdict.worse_by > 0.5


def test_a_candidate_three_times_faster_passes(tmp_path):
    verdicts = judged(tmp_path, Scheduled(0.06, 0.015), Scheduled(0.02, 0.005))
    assert {verdict.outcome for verdict in verdicts.values()} == {Outcome.PASSED}
    assert all(verdict.worse_by < 0 for verdict in verdicts.values())


def test_only_the_slower_part_fails(tmp_path):
    settings = replace(SETTINGS, itl_margin=1.0)
    verdicts = judged(tmp_path, Scheduled(0.02, 0.01), Scheduled(0.08, 0.01), settings)
    assert verdicts["ttft_p50"].outcome is Outcome.FAILED
    assert verdicts["itl_p50"].outcome is not Outcome.FAILED


def test_a_measure_without_a_margin_is_reported_and_not_judged(tmp_path):
    settings = replace(SETTINGS, itl_margin=None, tps_margin=None)
    (verdict,) = judged(tmp_path, Scheduled(0.02, 0.005), Scheduled(0.02, 0.005), settings).values()
    numbers = dict(verdict.numbers)
    assert verdict.gate == "latency.ttft_p50"
    assert numbers["baseline itl_p50 [ms]"] > 0
    assert "itl_p50 slowdown, not judged" in numbers
    assert numbers["candidate tps [tokens/s]"] > 0
    assert numbers["client lateness p99 [ms]"] >= 0


def test_pairs_take_turns_in_abba_order_on_the_same_trace(tmp_path):
    old, new = Scheduled(0.001, 0.0), Scheduled(0.001, 0.0)
    latency.measure(pair(old, new), SETTINGS, tmp_path, silent)
    turns = [
        (sample["pair"], sample["side"])
        for sample in Evidence.read(tmp_path, gate="latency").samples
    ]
    assert turns == [
        (number, side)
        for number in (1, 2, 3, 4)
        for side in ((BASELINE, CANDIDATE) if number % 2 else (CANDIDATE, BASELINE))
    ]
    assert old.prompts == new.prompts
    per_turn = LOAD.warm_up + LOAD.requests
    assert len(old.prompts) == 1 + LOAD.pairs * per_turn  # one to see that it speaks at all
    assert max(old.begun[1 : 1 + per_turn]) <= min(new.begun[1 : 1 + per_turn])


def test_the_users_own_prompts_are_used(tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "mine", "scorer": "exact"}\n')
    old, new = Scheduled(0.001, 0.0), Scheduled(0.001, 0.0)
    settings = replace(SETTINGS, prompts=tmp_path / "asked.jsonl")
    latency.measure(pair(old, new), settings, tmp_path, silent)
    assert set(old.prompts) == {"mine"}


def test_an_open_loop_is_measured_too(tmp_path):
    settings = replace(SETTINGS, load=replace(LOAD, rate=200.0), tps_margin=None)
    verdicts = judged(tmp_path, Scheduled(0.02, 0.005), Scheduled(0.06, 0.015), settings)
    assert verdicts["ttft_p50"].outcome is Outcome.FAILED


def test_endpoints_are_opened_inside_and_closed_even_on_failure(tmp_path):
    log: list[str] = []
    with pytest.raises(EvidenceError):
        latency.measure(
            pair(Scheduled(), Scheduled(breaks_after=0), log=log), SETTINGS, tmp_path, silent
        )
    assert log == ["opened", "opened", "closed", "closed"]


@pytest.mark.parametrize(
    ("candidate", "complaint"),
    [
        (Scheduled(breaks_after=0), "latency: candidate: connection refused"),
        (Scheduled(0.001, breaks_after=20), r"pair 3, candidate, request \d+: connection refused"),
        (Scheduled(0.001, mute=True), "the candidate answers a prompt with nothing"),
        (Scripted(lambda prompt, seed: ""), "the candidate answers a prompt with nothing"),
        (Scheduled(0.001, short_by=1), "pair 1, candidate, warm-up, request 1: 4 tokens of 5"),
    ],
)
def test_a_server_that_fails_is_named_by_pair_and_side(tmp_path, candidate, complaint):
    with pytest.raises(EvidenceError, match=complaint):
        latency.measure(pair(Scheduled(0.001, 0.0), candidate), SETTINGS, tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_late_itself_voids_the_run(tmp_path):
    settings = replace(
        SETTINGS, client_share=0.25, load=replace(LOAD, requests=2, warm_up=0, concurrency=2)
    )
    hogging = Scheduled(0.01, 0.002, hogs=0.03)
    with pytest.raises(EvidenceError, match=r"the client was .* ms late"):
        latency.measure(pair(hogging, hogging), settings, tmp_path, silent)


def block(number, side, ttft, *, lag=0.0):
    timing = Timing(intended=0.0, sent=0.0, arrivals=((ttft, 1), (2 * ttft, 1)), finish="length")
    return Block(pair=number, side=side, requests=(timing,) * 4, lags=(lag,) * 9)


def evidence_of(folder, ratios, *, lag=0.0):
    write(
        folder,
        gate="latency",
        settings={},
        samples=[
            block(number, side, ttft, lag=lag).as_json()
            for number, ratio in enumerate(ratios, start=1)
            for side, ttft in ((BASELINE, 0.1), (CANDIDATE, 0.1 * ratio))
        ],
    )
    return folder


def test_drift_is_an_alarm_unless_the_policy_voids_it(tmp_path):
    ratios = [1.0, 1.05, 1.1, 1.16, 1.2, 1.26]
    evidence_of(tmp_path, ratios)
    first, *_ = latency.judge(tmp_path, tmp_path, SETTINGS)
    assert "drifts over the pairs" in first.detail
    assert dict(first.numbers)["ttft_p50 drift alarm"] == 1.0
    with pytest.raises(EvidenceError, match="drifts over the pairs"):
        latency.judge(tmp_path, tmp_path, replace(SETTINGS, void_on_drift=True))


def test_a_stranger_sees_from_the_evidence_that_the_client_was_late(tmp_path):
    evidence_of(tmp_path, [1.0, 1.01, 0.99, 1.0], lag=0.03)
    with pytest.raises(EvidenceError, match=r"the client was 30\.0 ms late"):
        latency.judge(tmp_path, tmp_path, replace(SETTINGS, client_share=0.25))


def test_sides_measured_apart_are_not_compared(tmp_path):
    for name in ("old", "new"):
        evidence_of(tmp_path / name, [1.0, 1.01, 0.99, 1.0])
    with pytest.raises(EvidenceError, match="not measured in turns"):
        latency.judge(tmp_path / "old", tmp_path / "new", SETTINGS)


def test_evidence_without_one_side_is_no_verdict(tmp_path):
    evidence_of(tmp_path, [1.0, 1.01, 0.99, 1.0])
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(EvidenceError):
        latency.judge(tmp_path, tmp_path, SETTINGS)


def test_raw_samples_are_there_for_drawing(tmp_path):
    evidence_of(tmp_path, [1.0, 1.5, 1.0, 1.5])
    old, new = latency.seen(tmp_path)
    assert len(old.ttft_ms) == len(new.itl_ms) == 16
    assert old.ttft_ms[0] == pytest.approx(100.0)
    assert new.tokens_per_second[0] == pytest.approx(10.0)


def parse(tmp_path, **keys):
    table = Table(keys, place="policy.toml", prefix="latency.")
    return latency.parse(table, beside=tmp_path, confidence=0.9)


def test_absent_margins_are_not_judged(tmp_path):
    settings = parse(tmp_path, itl_margin=0.1, prompts="mine.jsonl", concurrency=7)
    assert settings.margins == {"itl": 0.1}
    assert settings.prompts == tmp_path / "mine.jsonl"
    assert (settings.load.rate, settings.load.concurrency) == (None, 7)
    assert parse(tmp_path, mode="open", rate=3, ttft_margin=0.0).margins == {"ttft": 0.0}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({}, "nothing is judged"),
        ({"ttft_margin": 0.1, "pairs": 5}, r"latency\.pairs = 5 is odd"),
        ({"ttft_margin": 0.1, "pairs": 2}, r"latency\.pairs must be a whole number of at least 4"),
        ({"ttft_margin": -0.1}, r"latency\.ttft_margin must be a finite number"),
        ({"ttft_margin": 0.1, "mode": "opn"}, r"latency\.mode = 'opn' is not one of closed, open"),
        ({"ttft_margin": 0.1, "mode": "open"}, r"latency\.rate is missing"),
        ({"ttft_margin": 0.1, "rate": 3}, r"unknown key latency\.rate"),
        ({"tps_margin": 0.1, "mode": "open", "rate": 3}, "tps says nothing of the server"),
        ({"ttft_margin": 0.1, "least_words": 9, "most_words": 8}, "most_words is below"),
        ({"ttft_margin": 0.1, "output_tokens": 1}, "at least 2"),
    ],
)
def test_a_load_that_cannot_judge_is_refused(tmp_path, keys, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse(tmp_path, **keys)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"prompt": "a"}\n{"promt": "b"}\n', ":2: no prompt"), ("\n", "no prompts"), ("{", ":1: ")],
)
def test_a_faulty_prompt_file_is_refused_before_any_work(tmp_path, text, complaint):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        latency.check(replace(SETTINGS, prompts=tmp_path / "p.jsonl"))


def test_margins_are_no_part_of_the_measurement_and_the_load_is(tmp_path):
    first = latency.inputs(SETTINGS)
    json.dumps(first)
    assert latency.inputs(replace(SETTINGS, ttft_margin=0.5, confidence=0.9)) == first
    assert latency.inputs(replace(SETTINGS, load=replace(LOAD, seed=1))) != first


def test_progress_reaches_its_end(tmp_path):
    seen = []

    def listen(what, done, total, *, unit=""):
        seen.append((done, total, perf_counter()))

    latency.measure(pair(Scheduled(0.001, 0.0), Scheduled(0.001, 0.0)), SETTINGS, tmp_path, listen)
    assert [done for done, _, _ in seen] == list(range(1, 9))
    assert seen[-1][1] == 8


def test_a_policy_that_requires_every_gate_is_read_after_all_gates_were_loaded(tmp_path):
    from builders import gate
    from builders.gate.policy import Policy

    for name in gate.GATES:
        gate.load(name)
    (tmp_path / "policy.toml").write_text("[latency]\nttft_margin = 0.1\n[prompts]\n")
    assert [name for name, _ in Policy.read(tmp_path / "policy.toml").gates] == [
        "prompts",
        "latency",
    ]
