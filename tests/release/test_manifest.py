"""A manifest's bytes are canonical, and nothing but what they say is read back from them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.bundle import Artifact, Tree
from builders.errors import ReleaseError
from builders.release.manifest import PREDICATE, STATEMENT, Manifest, Predicate
from builders.verdict import Outcome, Verdict

TREE = Tree((Artifact("a/b", "0" * 64, 3), Artifact("c", "1" * 64, 0)))


def verdict(gate="perplexity", low=-0.1, high=0.1):
    return Verdict(gate=gate, worse_by=0.0, low=low, high=high, margin=0.2, units=60, unit="ln")


def manifest(*verdicts):
    return Manifest(tree=TREE, predicate=Predicate(plan="sha256:p", verdicts=verdicts))


def edited(**changes):
    """The payload of a good manifest with parts of it replaced; underscores lead inward."""
    statement = json.loads(manifest(verdict()).payload())
    for path, value in changes.items():
        *above, last = path.split("__")
        inner = statement
        for name in above:
            inner = inner[int(name)] if name.isdigit() else inner[name]
        inner[last] = value
    return json.dumps(statement).encode()


def test_a_manifest_is_an_in_toto_statement_about_the_bundles_tree():
    statement = json.loads(manifest().payload())
    assert statement["_type"] == STATEMENT == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "bundle", "digest": {"sha256": TREE.digest}}]
    assert statement["predicateType"] == PREDICATE


def test_what_was_written_is_read():
    written = manifest(verdict(), verdict("latency", high=0.5))
    read = Manifest.parse(written.payload(), signed_by="key")
    assert read.tree == written.tree
    assert read.predicate == written.predicate
    assert read.signed_by == "key"


@given(st.tuples(*[st.floats()] * 3))
def test_bounds_survive_the_way_through_json_with_their_outcome(bounds):
    worse_by, low, high = bounds
    said = Verdict(gate="g", worse_by=worse_by, low=low, high=high, margin=0.2, units=1)
    payload = manifest(said).payload()
    (read,) = Manifest.parse(payload, signed_by="").predicate.verdicts
    assert read.outcome is said.outcome
    assert [repr(x) for x in (read.low, read.high)] == [repr(x) for x in (low, high)]
    assert "NaN" not in payload.decode()


def test_no_verdict_at_all_is_inconclusive():
    assert manifest().predicate.outcome is Outcome.INCONCLUSIVE


def test_gates_without_a_passed_verdict_are_named_with_what_they_have():
    said = manifest(verdict(), verdict("latency", low=0.3, high=0.4), verdict("prompts", high=0.4))
    lacking = said.predicate.without(("perplexity", "latency", "prompts", "accuracy"))
    assert lacking == ("latency (failed)", "prompts (inconclusive)", "accuracy (not judged)")


def test_a_gate_with_two_verdicts_needs_both():
    said = manifest(verdict(), verdict(high=math.nan))
    assert said.predicate.without(("perplexity",)) == ("perplexity (inconclusive)",)


@pytest.mark.parametrize("part", ["_type", "predicateType"])
def test_a_statement_of_another_kind_is_refused(part):
    with pytest.raises(ReleaseError, match="another kind"):
        Manifest.parse(edited(**{part: "https://slsa.dev/provenance/v1"}), signed_by="")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("subject", []),
        ("subject__0__digest", {"sha256": "2" * 64}),
        ("predicate__artifacts__0__sha256", "2" * 64),
        ("predicate__artifacts__0__path", "../../etc/passwd"),
        ("predicate__artifacts__0__path", "/etc/passwd"),
        ("predicate__artifacts__0__path", "c"),
        ("predicate__artifacts__0__size", -1),
        ("predicate__artifacts__0__size", True),
        ("predicate__artifacts", {}),
        ("predicate__verdicts__0__outcome", "failed"),
        ("predicate__verdicts__0__high", "0.9"),
        ("predicate__verdicts__0__units", "60"),
        ("predicate__verdicts", [None]),
        ("predicate__plan", None),
        ("predicate__tools", {"torch": 2}),
        ("predicate", []),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(path, value):
    with pytest.raises(ReleaseError, match=r"manifest\.json: not as enginesmith writes it"):
        Manifest.parse(edited(**{path: value}), signed_by="")


def test_what_a_later_version_adds_does_no_harm():
    read = Manifest.parse(edited(predicate__energy="3 kWh"), signed_by="")
    assert read.predicate.plan == "sha256:p"


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr))
def test_no_bytes_end_in_anything_but_a_refusal(data):
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    with pytest.raises(ReleaseError):
        Manifest.parse(raw, signed_by="")


def test_a_bomb_of_brackets_is_refused():
    with pytest.raises(ReleaseError):
        Manifest.parse(b"[" * 100_000, signed_by="")
