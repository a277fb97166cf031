"""The latency gate judged against endpoints whose true times are known, and its refusals."""

import json
from dataclasses import replace
from time import perf_counter

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.evidence import Evidence, write
from builders.gate.speed import latency
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing
from builders.gate.speed.goodput import Slo
from builders.gate.speed.latency import Pair, Settings
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.traffic import Load
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scheduled, Scripted, opener

LOAD = Load(pairs=4, requests=6, warm_up=1, tokens=Lengths.fixed(5), concurrency=3, timeout=30.0)
MARGINS = {"ttft": 0.05, "itl": 0.05, "tps": 0.05}
# A busy machine may make the client late; here that is looked at in one test only.
SETTINGS = Settings(load=LOAD, confidence=0.95, margins=MARGINS, client_share=1e6)


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
    settings = replace(SETTINGS, margins=MARGINS | {"itl": 1.0})
    verdicts = judged(tmp_path, Scheduled(0.02, 0.01), Scheduled(0.08, 0.01), settings)
    assert verdicts["ttft_p50"].outcome is Outcome.FAILED
    assert verdicts["itl_p50"].outcome is not Outcome.FAILED


def test_a_measure_without_a_margin_is_reported_and_not_judged(tmp_path):
    settings = replace(SETTINGS, margins={"ttft": 0.05})
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
    before = 1 + (1 + 2 + 3)  # one to see that it speaks at all, then batches of each size
    assert len(old.prompts) == before + LOAD.pairs * per_turn
    assert max(old.begun[before : before + per_turn]) <= min(new.begun[before : before + per_turn])


def test_the_users_own_prompts_are_used(tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "mine", "scorer": "exact"}\n')
    old, new = Scheduled(0.001, 0.0), Scheduled(0.001, 0.0)
    settings = replace(SETTINGS, prompts=tmp_path / "asked.jsonl")
    latency.measure(pair(old, new), settings, tmp_path, silent)
    assert set(old.prompts) == {"mine"}


def test_an_open_loop_is_measured_too(tmp_path):
    settings = replace(
        SETTINGS, load=replace(LOAD, rate=200.0), margins={"ttft": 0.05, "itl": 0.05}
    )
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
        (
            Scheduled(0.001, breaks_after=7 + 4 * 7 + 2),
            r"pair 5, candidate, request \d+: connection refused",
        ),
        (Scheduled(0.001, mute=True), "the candidate answers a prompt with nothing"),
        (Scripted(lambda prompt, seed: ""), "the candidate answers a prompt with nothing"),
        (Scheduled(0.001, short_by=1), "candidate, batches of 1, request 1: 3 tokens of 4"),
    ],
)
def test_a_server_that_fails_is_named_by_pair_and_side(tmp_path, candidate, complaint):
    settings = replace(SETTINGS, load=replace(LOAD, pairs=6))
    with pytest.raises(EvidenceError, match=complaint):
        latency.measure(pair(Scheduled(0.001, 0.0), candidate), settings, tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_late_itself_voids_the_run(tmp_path):
    settings = replace(
        SETTINGS, client_share=0.25, load=replace(LOAD, requests=2, warm_up=0, concurrency=2)
    )
    hogging = Scheduled(0.01, 0.002, hogs=0.03)
    with pytest.raises(EvidenceError, match=r"the client was .* ms late"):
        latency.measure(pair(hogging, hogging), settings, tmp_path, silent)


def block(number, side, ttft, *, lag=0.0, gpu=None, prompt_tokens=None):
    timing = Timing(
        intended=0.0,
        sent=0.0,
        arrivals=((ttft, 1), (2 * ttft, 1)),
        finish="length",
        prompt_tokens=(prompt_tokens or {}).get(side),
    )
    gpus = (gpu,) if gpu else ()
    return Block(pair=number, side=side, requests=(timing,) * 4, lags=(lag,) * 9, gpus=gpus)


def evidence_of(folder, ratios, *, subject=None, **more):
    write(
        folder,
        gate="latency",
        settings={},
        subject=subject,
        samples=[
            block(number, side, ttft, **more).as_json()
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
        ({"ttft_margin": 0.1, "mode": "open"}, "needs either rate or utilization"),
        (
            {"ttft_margin": 0.1, "mode": "open", "rate": 3, "utilization": 0.7},
            "needs either rate or utilization",
        ),
        ({"ttft_margin": 0.1, "mode": "replay"}, r"latency\.record is missing"),
        ({"ttft_margin": 0.1, "record": "a.jsonl"}, r"unknown key latency\.record"),
        ({"ttft_p95_margin": 0.1, "requests": 71}, "71 requests do not bound that tail"),
        ({"itl_p99_margin": 0.1, "requests": 11, "output_tokens": 33}, "do not bound that tail"),
        ({"ttft_margin": 0.1, "prompt_words": {"shape": "round"}}, "'round' is not one of fixed"),
        ({"ttft_margin": 0.1, "prompt_words": {"median": 3}}, r"key latency\.prompt_words\.median"),
        ({"slo": {"ttft_ms": 50}}, r"latency\.slo\.itl_ms is missing"),
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
    assert latency.inputs(replace(SETTINGS, margins={}, confidence=0.9)) == first
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


def test_the_client_is_measured_before_the_servers_are(tmp_path):
    latency.measure(pair(Scheduled(0.001), Scheduled(0.001)), SETTINGS, tmp_path, silent)
    found = Evidence.read(tmp_path, gate="latency").subject["client"]["calibrations"]
    (found,) = found
    assert (found["concurrency"], found["transport"]) == (3, "HTTP")
    assert found["ttft_p50"] > 0  # nobody is early
    first, *_ = latency.judge(tmp_path, tmp_path, SETTINGS)
    assert "HTTP client ttft_p50 error [ms]" in dict(first.numbers)


def test_a_client_that_was_inexact_before_the_run_voids_it(tmp_path):
    exact = {"transport": "gRPC", "ttft_p50": 0.0, "ttft_p99": 0.0, "itl_p50": 0.0, "itl_p99": 0.0}
    settings = replace(SETTINGS, client_share=0.25)
    for name, off, said in (("ttft_p50", 0.03, "TTFT"), ("itl_p50", -0.03, "ITL")):
        folder = tmp_path / name
        known = exact | {"transport": "HTTP"}
        subject = {"client": {"calibrations": [known, exact | {name: off}]}}
        evidence_of(folder, [1.0, 1.01, 0.99, 1.0], subject=subject)
        with pytest.raises(EvidenceError, match=rf"the gRPC client's {said} was off by 30\.00 ms"):
            latency.judge(folder, folder, settings)
        latency.judge(folder, folder, SETTINGS)


def throttled(*reasons, **more):
    return {"name": "H0", "clock_mhz": [], "reasons": reasons, "processes": 1, "errors": 0} | more


def test_a_gpu_that_throttled_voids_the_run_unless_the_policy_says_otherwise(tmp_path):
    evidence_of(tmp_path, [1.0, 1.01, 0.99, 1.0], gpu=throttled("hardware thermal slowdown"))
    with pytest.raises(EvidenceError, match="H0 throttled: hardware thermal slowdown"):
        latency.judge(tmp_path, tmp_path, SETTINGS)
    latency.judge(tmp_path, tmp_path, replace(SETTINGS, void_on_throttle=False))


def test_a_power_cap_and_a_wandering_clock_are_told_and_void_nothing(tmp_path):
    seen = throttled("power cap", clock_mhz=[1500, 1700])
    evidence_of(tmp_path, [1.0, 1.01, 0.99, 1.0], gpu=seen)
    first, *_ = latency.judge(tmp_path, tmp_path, SETTINGS)
    assert "H0 ran at 1500 to 1700 MHz" in first.detail


def test_servers_that_read_different_prompts_are_not_compared(tmp_path):
    evidence_of(tmp_path, [1.0, 1.01, 0.99, 1.0], prompt_tokens={CANDIDATE: 256, BASELINE: 300})
    with pytest.raises(EvidenceError, match=r"pair 1, request 1: the baseline read 300 tokens"):
        latency.judge(tmp_path, tmp_path, SETTINGS)


def test_recorded_traffic_is_replayed_on_both_sides(tmp_path):
    lines = [
        {"at_s": 7.0 + 0.01 * n, "output_tokens": 2 + n % 3, "prompt": f"ask {n}"} for n in range(8)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    old, new = Scheduled(0.001, 0.0), Scheduled(0.001, 0.0)
    settings = replace(SETTINGS, record=tmp_path / "asked.jsonl", margins={"ttft": 0.5})
    latency.measure(pair(old, new), settings, tmp_path / "out", silent)
    blocks = Evidence.read(tmp_path / "out", gate="latency").samples
    assert [len(block["requests"]) for block in blocks] == [8] * 8
    assert [request["intended"] for request in blocks[0]["requests"]] == pytest.approx(
        [0.01 * n for n in range(8)]
    )
    assert [sum(request["tokens"]) for request in blocks[3]["requests"]] == [
        line["output_tokens"] for line in lines
    ]
    assert old.prompts == new.prompts


def test_a_rate_may_be_a_share_of_what_the_baseline_can_do(tmp_path):
    server = Scheduled(0.02, 0.0, slots=2)  # a hundred requests a second at most
    settings = replace(
        SETTINGS, load=replace(LOAD, concurrency=4), utilization=0.5, margins={"ttft": 0.5}
    )
    latency.measure(pair(server, server), settings, tmp_path, silent)
    assert 10 < Evidence.read(tmp_path, gate="latency").subject["rate"] <= 51


def test_goodput_is_judged_by_the_rates_that_were_decided(tmp_path):
    slo = Slo(
        ttft_ms=150.0,
        itl_ms=1000.0,
        share=0.5,
        confidence=0.9,
        least_rate=20.0,
        most_rate=2000.0,
        steps=2,
        requests=16,
        margin=0.1,
    )
    slow, fast = Scheduled(0.25, 0.0), Scheduled(0.01, 0.0)
    load = replace(LOAD, requests=2, warm_up=0)
    settings = replace(SETTINGS, load=load, slo=slo, margins={})
    latency.measure(pair(fast, fast), settings, tmp_path / "same", silent)
    (same,) = latency.judge(tmp_path / "same", tmp_path / "same", settings)
    assert same.gate == "latency.goodput"
    latency.measure(pair(fast, slow), settings, tmp_path / "slow", silent)
    (lost,) = latency.judge(tmp_path / "slow", tmp_path / "slow", settings)
    assert lost.outcome is Outcome.FAILED
    latency.measure(pair(slow, fast), settings, tmp_path / "none", silent)
    with pytest.raises(EvidenceError, match="does not keep the promise at 20 requests"):
        latency.judge(tmp_path / "none", tmp_path / "none", settings)


def test_a_record_too_short_for_a_tail_is_refused_before_any_work(tmp_path):
    line = '{"at_s": 1, "prompt_words": 3, "output_tokens": 2}\n'
    for count, name in ((71, "ttft_p95"), (183, "itl_p99")):
        (tmp_path / "asked.jsonl").write_text(line * count)
        settings = replace(SETTINGS, record=tmp_path / "asked.jsonl", margins={name: 0.1})
        with pytest.raises(UsageError, match=f"{count} requests do not bound that tail"):
            latency.check(settings)
        (tmp_path / "asked.jsonl").write_text(line * (count + 1))
        latency.check(settings)
