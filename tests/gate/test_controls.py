"""No verdict without controls: an instrument that sees no damage, or is moody, is void."""

import json
from dataclasses import replace

import pytest

from builders.errors import EvidenceError
from builders.gate import controls
from builders.gate.scoring import perplexity
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.scorers import Arithmetic, Broken, Scores

WORDS = "the cat sat on the mat and looked at the rain, which fell as it falls in autumn; "


@pytest.fixture
def chosen(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = [f"{number} {WORDS * 8}" for number in range(8)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    table = Table({"corpus": [path.name], "window": 64, "controls": 8}, place="p")
    return perplexity.parse(table, beside=tmp_path, confidence=0.95)


def measured(tmp_path, chosen, baseline, candidate):
    folders = {}
    for name in ("baseline", "candidate", *controls.WHOSE):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    perplexity.measure(baseline, chosen, folders["baseline"], silent)
    perplexity.measure(candidate, chosen, folders["candidate"], silent)
    for which, side in controls.WHOSE.items():
        subject = {"baseline": baseline, "candidate": candidate}[side]
        controls.measure("perplexity", which, subject, chosen, folders[which], silent)
    return folders


def judged(tmp_path, chosen, baseline, candidate):
    return controls.judge("perplexity", measured(tmp_path, chosen, baseline, candidate), chosen)


class Deaf(Arithmetic):
    """Scores what it remembers by place, whatever it is given: no two numbers are equal."""

    def score(self, rows, *, progress=silent):
        import numpy as np

        return [
            Scores(-0.5 - np.arange(len(row) - 1) / 1000, np.ones(len(row) - 1)) for row in rows
        ]


class Moody(Arithmetic):
    """Depends on how many rows it is asked for at once."""

    def score(self, rows, *, progress=silent):
        shift = 0.1 if len(rows) == 1 else 0.0
        return [Scores(one.logprobs - shift, one.greedy) for one in super().score(rows)]


def test_the_same_model_is_indistinguishable_from_a_baseline_that_repeats_itself(tmp_path, chosen):
    (verdict,) = judged(tmp_path, chosen, Arithmetic(), Arithmetic())
    assert (verdict.label, verdict.band) == ("indistinguishable", 0.0)
    numbers = dict(verdict.numbers)
    assert numbers["baseline against itself"] == 0.0
    assert numbers["baseline damaged on purpose"] > 0.1
    assert numbers["divergence from the baseline, at least [nats]"] == 0.0


def test_a_little_harm_is_within_the_margin_and_no_more(tmp_path, chosen):
    (verdict,) = judged(tmp_path, chosen, Arithmetic(), Arithmetic(harm=0.005))
    assert verdict.label == "within-margin"


def test_a_damaged_candidate_fails(tmp_path, chosen):
    (verdict,) = judged(tmp_path, chosen, Arithmetic(), controls.Damaged(Arithmetic()))
    assert verdict.outcome is Outcome.FAILED


def test_a_runtime_that_does_not_look_at_what_it_is_given_is_void(tmp_path, chosen):
    with pytest.raises(EvidenceError, match="void, a baseline damaged on purpose is worse by 0 "):
        judged(tmp_path, chosen, Deaf(), Deaf())


def test_a_runtime_that_says_the_same_of_everything_is_void(tmp_path, chosen):
    blind = Broken(Arithmetic(), -1.0)
    with pytest.raises(EvidenceError, match="void, all log-probabilities of the baseline"):
        judged(tmp_path, chosen, blind, blind)


def test_a_baseline_that_differs_from_itself_by_half_the_margin_is_void(tmp_path, chosen):
    with pytest.raises(EvidenceError, match=r"void, the baseline measured twice differs.*\+0\.105"):
        judged(tmp_path, chosen, Moody(), Moody())


def test_the_controls_measure_few_units_that_the_baseline_has_too(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic())
    units = {
        name: {
            json.loads(line)["unit"] for line in (folder / "samples.jsonl").read_text().splitlines()
        }
        for name, folder in folders.items()
    }
    assert len(units["again"]) == 8 < len(units["baseline"])
    assert units["again"] == units["damaged"] < units["baseline"]


def test_evidence_without_its_controls_judges_nothing(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic())
    del folders["damaged"]
    with pytest.raises(EvidenceError, match="control 'damaged' was not measured"):
        controls.judge("perplexity", folders, chosen)


def test_a_control_depends_on_its_own_size_and_damage_alone(chosen):
    again, damaged = (
        controls.inputs("perplexity", which, chosen) for which in ("again", "damaged")
    )
    assert again != damaged
    assert again == controls.inputs("perplexity", "again", replace(chosen, margin=0.5))
    assert again != controls.inputs("perplexity", "again", replace(chosen, controls=9))


def test_damage_is_the_same_whenever_and_in_whatever_order_it_is_done():
    rows = [list(range(50)), list(range(50, 90))]
    one, two = controls.Damaged(Arithmetic()), controls.Damaged(Arithmetic())
    first = [score.logprobs.tolist() for score in one.score(rows)]
    assert [score.logprobs.tolist() for score in two.score(rows[::-1])] == first[::-1]


def test_a_gate_that_watches_itself_has_no_controls():
    assert controls.wanted("preference", None) == ()


def without(folders, *names):
    return {name: folder for name, folder in folders.items() if name not in names}


def test_an_early_look_fails_a_bad_candidate_and_says_that_it_was_early(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic(harm=0.3))
    looked = without(folders, "candidate")
    assert controls.looks("perplexity", looked, 0.999)
    assert controls.fails_early("perplexity", looked, chosen, 0.999)
    (verdict,) = controls.judge("perplexity", looked, chosen, early=0.999)
    assert (verdict.outcome, verdict.label, verdict.units) == (Outcome.FAILED, "worse-early", 8)
    assert verdict.as_json()["early"] is True
    assert "early look at 0.999 confidence, the rest not measured" in verdict.detail
    assert dict(verdict.numbers)["baseline damaged on purpose"] > 0.1


def test_an_early_look_never_passes_a_candidate(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic())
    assert not controls.fails_early("perplexity", folders, chosen, 0.999)
    with pytest.raises(EvidenceError, match="looked at early and not measured"):
        controls.judge("perplexity", without(folders, "candidate"), chosen, early=0.999)
    (verdict,) = controls.judge("perplexity", folders, chosen, early=0.999)
    assert replace(verdict, early=True, low=-1.0, high=-0.5).outcome is Outcome.INCONCLUSIVE


def test_a_look_that_is_not_hopeless_changes_nothing_in_the_verdict(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic(harm=0.005))
    looked = controls.judge("perplexity", folders, chosen, early=0.999)
    assert looked == controls.judge("perplexity", without(folders, "early"), chosen, early=0.999)
    assert looked == controls.judge("perplexity", folders, chosen)


def test_a_look_that_is_switched_off_or_not_early_is_not_taken(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Arithmetic(), Arithmetic())
    assert not controls.looks("perplexity", folders, 1.0)
    assert not controls.looks("perplexity", folders | {"baseline": folders["again"]}, 0.999)
    assert not controls.fails_early("perplexity", folders, chosen, 1.0)
    assert not controls.looks("latency", folders, 0.999)  # in turns, there is no first part


def test_an_early_failure_by_an_instrument_that_cannot_see_is_void(tmp_path, chosen):
    folders = measured(tmp_path, chosen, Deaf(), controls.Damaged(Arithmetic()))
    with pytest.raises(EvidenceError, match="void, a baseline damaged on purpose"):
        controls.judge("perplexity", without(folders, "candidate"), chosen, early=0.999)
