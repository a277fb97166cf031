"""Controls of the latency gate: a slowed baseline must be seen, an unsteady one voids the run."""

import asyncio
from dataclasses import replace
from time import perf_counter

import pytest

from builders.errors import EvidenceError, ToolError, UsageError
from builders.gate import controls
from builders.gate.evidence import Evidence, write
from builders.gate.speed import latency
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing
from builders.gate.speed.latency import Pair, Settings
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.slowed import Slowed
from builders.gate.speed.traffic import Load, Recorded
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scheduled, opener

LOAD = Load(pairs=6, requests=8, warm_up=1, tokens=Lengths.fixed(5), concurrency=2, timeout=30.0)
SETTINGS = Settings(
    load=LOAD, confidence=0.95, margins={"ttft": 1.0, "itl": 1.0}, client_share=1e6, controls=4
)


def blocks(ratios, *, requests=4):
    """Blocks whose candidate takes so many times as long, pair by pair."""
    found = []
    for pair, ratio in enumerate(ratios, start=1):
        for side, times in ((BASELINE, 1.0), (CANDIDATE, ratio)):
            arrivals = tuple((0.1 * times * place, 1) for place in range(1, 6))
            timing = Timing(intended=0.0, sent=0.0, arrivals=arrivals)
            found.append(Block(pair=pair, side=side, requests=(timing,) * requests))
    return found


def left(folder, ratios, **options):
    folder.mkdir()
    samples = [block.as_json() for block in blocks(ratios, **options)]
    write(folder, gate="latency", settings={}, samples=samples, subject={"client": {}})
    return folder


def judged(tmp_path, *, again=(1, 1.01, 0.99, 1), damaged=(3, 3.1, 2.9, 3), settings=SETTINGS):
    both = left(tmp_path / "both", (1, 1.1, 1, 1.1, 1, 1.1), requests=8)
    found = {
        "baseline": both,
        "candidate": both,
        "again": left(tmp_path / "again", again),
        "damaged": left(tmp_path / "damaged", damaged),
    }
    return controls.judge("latency", found, settings)


def test_a_verdict_tells_what_its_controls_showed(tmp_path):
    verdicts = judged(tmp_path)
    assert [v.outcome for v in verdicts] == [Outcome.PASSED] * 2
    numbers = dict(verdicts[0].numbers)
    assert numbers["baseline against itself"] == pytest.approx(0, abs=1e-3)
    assert numbers["baseline slowed on purpose"] == pytest.approx(2, abs=0.01)
    assert 0 < verdicts[0].band < 0.02
    assert verdicts[0].label == "within-margin"


@pytest.mark.parametrize(
    ("controlled", "said"),
    [
        ({"damaged": (1, 1.01, 0.99, 1)}, "void, a baseline slowed to 4 times its time is slower"),
        ({"damaged": (1, 9, 1, 9)}, "the instrument cannot see harm"),
        ({"again": (2, 2.1, 2, 2.1)}, r"void, the baseline differs from itself by \+104.9%"),
        ({"again": (0.4, 0.41, 0.4, 0.41)}, "void, the baseline differs from itself by -59.5%"),
        ({"again": (0.02, 50, 0.02, 50)}, "void, the baseline against itself scatters from"),
    ],
)
def test_controls_that_are_not_as_they_must_be_void_the_run(tmp_path, controlled, said):
    with pytest.raises(EvidenceError, match=said):
        judged(tmp_path, **controlled)


def test_controls_count_as_if_they_had_as_many_requests_as_the_gate(tmp_path):
    once = latency.judge(*[left(tmp_path / "a", (3, 3.5, 2.5, 3))] * 2, SETTINGS)[0]
    more = latency.judge(tmp_path / "a", tmp_path / "a", SETTINGS, more=4.0)[0]
    assert once.worse_by == more.worse_by
    assert once.low < more.low < more.high < once.high


def test_a_run_without_its_controls_judges_nothing(tmp_path):
    both = left(tmp_path / "both", (1, 1, 1, 1))
    sides = {"baseline": both, "candidate": both}
    with pytest.raises(EvidenceError, match="control 'again' was not measured"):
        controls.judge("latency", sides, SETTINGS)
    assert controls.judge("latency", sides, replace(SETTINGS, controls=0))


def test_the_baseline_is_measured_against_itself_and_against_itself_slowed(tmp_path):
    never = opener(Scheduled(breaks_after=0))
    for which in controls.wanted("latency", SETTINGS):
        (tmp_path / which).mkdir()
        pair = Pair(baseline=opener(Scheduled(0.01, 0.004)), candidate=never)
        controls.measure("latency", which, pair, SETTINGS, tmp_path / which, silent)
        found = Evidence.read(tmp_path / which, gate="latency")
        assert len(found.samples) == 2 * 4
        assert all(len(block["requests"]) == 4 for block in found.samples)
    few = latency.few(SETTINGS)
    (ttft, itl) = latency.judge(tmp_path / "damaged", tmp_path / "damaged", few)
    assert ttft.worse_by > 1.0
    assert itl.worse_by > 1.0


def test_everything_takes_longer_by_the_factor_and_nothing_is_lost():
    async def timed(endpoint):
        begun = perf_counter()
        found = [
            (perf_counter() - begun, chunk)
            async for chunk in endpoint.stream(
                "x", max_tokens=4, temperature=0, seed=0, stop=(), ignore_eos=True
            )
        ]
        return [at for at, _ in found], [(c.text, c.tokens, c.finish_reason) for _, c in found]

    _, said = asyncio.run(timed(Scheduled(0.03, 0.02)))
    late, same = asyncio.run(timed(Slowed(Scheduled(0.03, 0.02), 4.0)))
    assert same == said
    assert late[0] >= 4 * 0.03 - 1e-3
    assert late[3] >= 4 * 0.09 - 1e-3


def test_a_failure_of_the_slowed_server_comes_through():
    async def asked():
        slow = Slowed(Scheduled(0.001, breaks_after=0), 2.0)
        async for _ in slow.stream(
            "x", max_tokens=4, temperature=0, seed=0, stop=(), ignore_eos=True
        ):
            pass

    with pytest.raises(ToolError, match="connection refused"):
        asyncio.run(asked())


def test_controls_are_as_small_as_what_they_bound_allows():
    many = replace(SETTINGS, load=replace(LOAD, requests=200))
    assert latency.few(many).load.requests == 4
    tails = replace(many, margins={"ttft_p95": 0.1})
    assert latency.few(tails).load.requests == 72
    assert latency.few(replace(SETTINGS, controls=0)) is None
    assert latency.few(replace(SETTINGS, margins={})) is None


def test_of_recorded_traffic_the_controls_replay_the_beginning(tmp_path):
    record = tmp_path / "traffic.jsonl"
    line = '{"at_s": %g, "prompt": "p", "output_tokens": 5}\n'
    record.write_text("".join(line % (n / 100) for n in range(20)))
    few = latency.few(replace(SETTINGS, record=record))
    assert len(few.loaded().recorded) == few.loaded().requests == 4
    assert few.loaded().recorded[0] == Recorded(at_s=0.0, output_tokens=5, prompt="p")
    assert latency.inputs(few)["few"] == 4


@pytest.mark.parametrize("number", [2, 5])
def test_an_odd_number_of_controls_is_refused(tmp_path, number):
    table = Table({"controls": number, "ttft_margin": 0.1}, place="p", prefix="latency.")
    with pytest.raises(UsageError, match=f"latency.controls = {number}") as error:
        latency.parse(table, beside=tmp_path, confidence=0.95)
    assert "0 judges without" in error.value.hint
