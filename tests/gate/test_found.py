"""Evidence is found where bundles and tools leave it, and judged without any model."""

import json
import shutil
from pathlib import Path

import pytest

from builders.errors import EvidenceError
from builders.gate import controls, evidence, found
from builders.gate.policy import Policy
from builders.gate.scoring import perplexity
from builders.parse import Table
from builders.progress import silent
from fakes.scorers import Arithmetic

ASSETS = Path(__file__).parents[1] / "assets" / "foreign"
WORDS = "the cat sat on the mat and looked at the rain, which fell as it falls in autumn; "


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = [f"{number} {WORDS * 8}" for number in range(8)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    table = Table({"corpus": [path.name], "window": 64, "controls": 8}, place="p")
    return perplexity.parse(table, beside=tmp_path, confidence=0.95)


def bundle(folder, settings, candidate):
    for side, scorer in (("baseline", Arithmetic()), ("candidate", candidate)):
        (folder / "perplexity" / side).mkdir(parents=True)
        perplexity.measure(scorer, settings, folder / "perplexity" / side, silent)
    for which in controls.wanted("perplexity", settings):
        (folder / "perplexity" / which).mkdir()
        controls.measure(
            "perplexity", which, Arithmetic(), settings, folder / "perplexity" / which, silent
        )
    return folder


def test_own_evidence_is_found_with_its_controls_in_a_bundle_or_bare(tmp_path, settings):
    bundle(tmp_path / "b" / "evidence", settings, Arithmetic(harm=0.001))
    (one,) = found.find(tmp_path / "b")
    assert (one.gate, one.foreign) == ("perplexity", False)
    assert set(one.folders) == {"baseline", "candidate", "again", "damaged"}
    (same,) = found.find(tmp_path / "b" / "evidence")
    assert same.judge(settings) == one.judge(settings)


def test_what_was_measured_in_turns_is_one_folder(tmp_path):
    (tmp_path / "latency").mkdir()
    evidence.write(tmp_path / "latency", gate="latency", settings={}, samples=[{"unit": "a"}])
    (one,) = found.find(tmp_path)
    assert one.folders["baseline"] == one.folders["candidate"] == tmp_path / "latency"


def test_other_tools_results_are_found_in_two_folders():
    (one,) = found.find(ASSETS / "lm_eval")
    assert (one.gate, one.foreign) == ("accuracy", True)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_no_evidence_is_said(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvidenceError, match=r"no such folder|no evidence in it") as error:
        found.find(tmp_path / name)
    assert "candidate/" in error.value.hint


def test_two_releases_are_compared_by_their_candidates(tmp_path, settings):
    old = bundle(tmp_path / "old", settings, Arithmetic(harm=0.001))
    new = bundle(tmp_path / "new", settings, Arithmetic(harm=0.05))
    (pair,) = found.against(old, new)
    (verdict,) = found.compare(pair, settings)
    assert verdict.worse_by == pytest.approx(0.0502, abs=1e-3)
    assert verdict.band is None


def test_results_of_tools_are_compared_file_by_file():
    sides = [next((ASSETS / "lm_eval" / side).rglob("*.jsonl")) for side in found.SIDES]
    (pair,) = found.against(*sides)
    settings = dict(Policy.usual(["accuracy"]).gates)["accuracy"]
    (verdict,) = found.compare(pair, settings)
    assert verdict.units == 60
    with pytest.raises(EvidenceError, match="no results of the same kind"):
        found.against(ASSETS / "lm_eval" / "baseline", ASSETS / "aiperf" / "candidate")


def test_a_changed_log_probability_changes_the_verdict(tmp_path, settings):
    folder = bundle(tmp_path / "b", settings, Arithmetic(harm=0.001))
    (before,) = found.find(folder)[0].judge(settings)
    shutil.copytree(folder / "perplexity" / "baseline", folder / "kept")
    samples = folder / "perplexity" / "candidate" / "samples.jsonl"
    first, *rest = samples.read_text().splitlines()
    other = json.loads(rest[0])["logprobs"]
    changed = json.loads(first) | {"logprobs": other}
    samples.write_text("\n".join([json.dumps(changed), *rest]) + "\n")
    (after,) = found.find(folder)[0].judge(settings)
    assert after != before


def test_a_candidate_that_failed_early_is_judged_and_has_nothing_to_compare(tmp_path, settings):
    folder = bundle(tmp_path / "b", settings, Arithmetic(harm=0.3))
    place = folder / "perplexity"
    (place / "early").mkdir()
    controls.measure("perplexity", "early", Arithmetic(harm=0.3), settings, place / "early", silent)
    shutil.rmtree(place / "candidate")
    (one,) = found.find(folder)
    assert set(one.folders) == {"baseline", "again", "damaged", "early"}
    (verdict,) = one.judge(settings, early=0.999)
    assert verdict.label == "worse-early"
    whole = bundle(tmp_path / "whole", settings, Arithmetic())
    assert found.against(whole, folder) == found.against(folder, whole) == ()
    shutil.rmtree(place / "early")
    with pytest.raises(EvidenceError, match="no evidence in it"):
        found.find(folder)


def test_what_was_measured_in_turns_is_found_with_its_controls(tmp_path):
    for place in ("latency", "latency/again", "latency/damaged"):
        (tmp_path / place).mkdir()
        evidence.write(tmp_path / place, gate="latency", settings={}, samples=[{"unit": "a"}])
    (one,) = found.find(tmp_path)
    assert set(one.folders) == {"baseline", "candidate", "again", "damaged"}
    assert found.against(tmp_path, tmp_path) == ()
