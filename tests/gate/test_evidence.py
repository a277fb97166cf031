"""Evidence comes back as it was written; what is no number, or not all there, gets nowhere."""

import json

import pytest

from builders.errors import EvidenceError
from builders.gate import evidence
from builders.gate.evidence import Evidence

SAMPLES = [
    {"unit": "b", "value": 0.1 + 0.2, "row": "x"},
    {"unit": "a", "value": -1e-300, "row": "y"},
]


def kept(folder, samples=SAMPLES, **more):
    folder.mkdir()
    evidence.write(folder, gate="prompts", settings={"seed": 1}, samples=samples, **more)
    return Evidence.read(folder, gate="prompts")


def test_samples_come_back_in_order_and_to_the_bit(tmp_path):
    found = kept(tmp_path / "e", subject={"vocabulary": 9})
    assert list(found.samples) == SAMPLES
    assert (found.settings, found.subject) == ({"seed": 1}, {"vocabulary": 9})
    assert found.host["cores"] >= 1
    assert "enginesmith" in found.versions


def test_the_same_samples_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        kept(tmp_path / name, [dict(reversed(sample.items())) for sample in SAMPLES])
    assert (tmp_path / "one/samples.jsonl").read_bytes() == (
        tmp_path / "two/samples.jsonl"
    ).read_bytes()


def test_text_of_any_kind_survives_on_one_line(tmp_path):
    text = "a\u2028b\x85c\r\nd\ud800"
    assert kept(tmp_path / "e", [{"unit": "u", "text": text}]).samples[0]["text"] == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_written(tmp_path, value):
    with pytest.raises(EvidenceError, match="unit u: a score is not a finite number"):
        kept(tmp_path / "e", [{"unit": "u", "value": [0.0, value]}])


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_not_read(tmp_path, constant):
    kept(tmp_path / "e")
    path = tmp_path / "e/samples.jsonl"
    path.write_text(path.read_text().replace("-1e-300", constant))
    with pytest.raises(EvidenceError, match=f"{constant} is not a number"):
        Evidence.read(tmp_path / "e", gate="prompts")


def test_a_unit_is_measured_once(tmp_path):
    with pytest.raises(EvidenceError, match="unit b was measured twice"):
        kept(tmp_path / "e", [SAMPLES[0], SAMPLES[0]])


def test_no_samples_are_no_evidence(tmp_path):
    with pytest.raises(EvidenceError, match="nothing was measured"):
        kept(tmp_path / "e", [])


def _cut(folder):
    path = folder / "samples.jsonl"
    path.write_text(path.read_text()[:-5])


def _drop(folder):
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def _relabel(folder):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "gate": "latency"}))


@pytest.mark.parametrize(
    "harm",
    [
        _cut,
        _drop,
        _relabel,
        lambda folder: (folder / "meta.json").write_text("[1]"),
        lambda folder: (folder / "meta.json").write_text("{}"),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "samples.jsonl").unlink(),
        lambda folder: (folder / "samples.jsonl").write_text("{}\n{}\n"),
    ],
)
def test_incomplete_evidence_is_refused(tmp_path, harm):
    kept(tmp_path / "e")
    harm(tmp_path / "e")
    with pytest.raises(EvidenceError, match=str(tmp_path / "e")):
        Evidence.read(tmp_path / "e", gate="prompts")


def test_pairs_follow_the_baseline_whatever_the_order(tmp_path):
    ours, theirs = kept(tmp_path / "a"), kept(tmp_path / "b", SAMPLES[::-1])
    pairs = evidence.pair(ours, theirs, same=("row",))
    assert [(one["unit"], other["unit"]) for one, other in pairs] == [("b", "b"), ("a", "a")]


def test_units_of_one_model_only_are_named(tmp_path):
    ours, theirs = kept(tmp_path / "a"), kept(tmp_path / "b", SAMPLES[:1])
    with pytest.raises(EvidenceError, match="unit a was measured for the baseline only"):
        evidence.pair(ours, theirs)
    with pytest.raises(EvidenceError, match="unit a was measured for the candidate only"):
        evidence.pair(theirs, ours)


def test_models_that_were_given_different_things_are_not_compared(tmp_path):
    ours = kept(tmp_path / "a")
    theirs = kept(tmp_path / "b", [SAMPLES[0], {**SAMPLES[1], "row": "z"}])
    with pytest.raises(EvidenceError, match="unit a: the two models were given different row"):
        evidence.pair(ours, theirs, same=("row",))
