"""A policy is read strictly: a gate that it does not name is not required, a typo is an error."""

import pytest

from builders.errors import UsageError
from builders.gate import GATES, load
from builders.gate.policy import Policy

BOTH = """
description = "For tests."
confidence = 0.9

[accuracy]
task = "tasks/mine.yaml"
margin = 0.05

[perplexity]
corpus = ["corpus.jsonl"]
window = 64
"""


def read(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return Policy.read(path)


def test_each_table_is_a_gate_in_the_order_of_the_house(tmp_path):
    policy = read(tmp_path, BOTH)
    assert (policy.name, policy.description, policy.confidence) == ("policy", "For tests.", 0.9)
    assert [name for name, _ in policy.gates] == ["perplexity", "accuracy"]
    (_, perplexity), (_, accuracy) = policy.gates
    assert perplexity.corpus == (tmp_path / "corpus.jsonl",)
    assert accuracy.path == tmp_path / "tasks/mine.yaml"
    assert perplexity.confidence == accuracy.confidence == 0.9


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("", "requires no gate", "add a table"),
        ("confidence = 0.9", "requires no gate", "add a table"),
        ("[perplexty]\n", "unknown key perplexty", "perplexity"),
        ("[perplexity]\n", "perplexity.corpus is missing", ""),
        ('[perplexity]\ncorpus = ["c"]\nmargn = 1\n', "unknown key perplexity.margn", "margin"),
        ('[perplexity]\ncorpus = ["c"]\nstride = 9999\n', "leaves out tokens", "at most 2048"),
        ("perplexity = 3", "perplexity must be a table", ""),
        ("confidence = 0.5\n[accuracy]\ntask='x'", "not between", "0.95"),
        ("confidence = 1.0\n[accuracy]\ntask='x'", "not between", "0.95"),
        ("confidence = ", "policy.toml", "TOML"),
        ("profile = 'lenient'\n[accuracy]\ntask='x'", "profile = 'lenient'", "strict"),
        ("candidates = 0\n[accuracy]\ntask='x'", "candidates must be", ""),
    ],
)
def test_what_is_wrong_is_named_with_the_next_step(tmp_path, text, error, hint):
    with pytest.raises(UsageError, match=error) as found:
        read(tmp_path, text)
    assert str(tmp_path / "policy.toml") in str(found.value)
    assert hint in found.value.hint


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Policy.read(tmp_path / "none.toml")


def test_checking_a_policy_checks_every_gate(tmp_path):
    policy = read(tmp_path, BOTH)
    with pytest.raises(UsageError, match=r"corpus.jsonl: no such file"):
        policy.check()
    (tmp_path / "corpus.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UsageError, match=r"mine.yaml: no such file"):
        policy.check()


def test_an_unknown_gate_is_named():
    with pytest.raises(UsageError, match="unknown gate 'acuracy'") as error:
        load("acuracy")
    assert error.value.hint == "did you mean accuracy?"


@pytest.mark.parametrize("name", GATES)
def test_every_gate_can_be_read_and_judged_without_a_heavy_library(name):
    import subprocess
    import sys

    heavy = "torch", "numpy", "scipy", "lm_eval", "transformers", "tritonclient", "datasets"
    code = (
        f"import sys; from builders.gate import load; load({name!r})\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FOUR = """
[perplexity]
corpus = ["c"]
[accuracy]
task = "x"
[prompts]
[latency]
"""


@pytest.mark.parametrize(
    ("profile", "margins"),
    [
        ("", (0.01, 0.01, 0.02, 0.05)),
        ("profile = 'strict'", (0.005, 0.005, 0.01, 0.03)),
        ("profile = 'standard'", (0.01, 0.01, 0.02, 0.05)),
        ("profile = 'lossy'", (0.03, 0.02, 0.03, 0.10)),
    ],
)
def test_a_profile_gives_each_gate_its_usual_margin(tmp_path, profile, margins):
    policy = read(tmp_path, f"{profile}\n{FOUR}")
    found = dict(policy.gates)
    assert policy.profile.value == (profile.split("'")[1] if profile else "standard")
    assert found["latency"].margins.keys() == {"ttft", "itl"}
    own = (found[name].margin for name in ("perplexity", "accuracy", "prompts"))
    assert (*own, found["latency"].margins["itl"]) == margins


def test_a_policys_own_margin_comes_before_its_profiles(tmp_path):
    text = f"profile = 'strict'\n{FOUR}itl_margin = 0.5".replace('"x"', '"x"\nmargin = 0.2')
    found = dict(read(tmp_path, text).gates)
    assert (found["accuracy"].margin, found["perplexity"].margin) == (0.2, 0.005)
    assert found["latency"].margins == {"itl": 0.5}


def test_candidates_share_what_may_go_wrong(tmp_path):
    policy = read(tmp_path, f"candidates = 10\n{FOUR}")
    assert policy.confidence == 0.95
    assert policy.each == pytest.approx(0.995)
    assert {settings.confidence for _, settings in policy.gates} == {policy.each}


def test_an_early_look_is_on_unless_it_is_switched_off(tmp_path):
    text = "[accuracy]\ntask='x'\n"
    assert read(tmp_path, text).early == 0.999
    assert read(tmp_path, f"{text}[early]\nconfidence = 1\n").early == 1.0
    with pytest.raises(UsageError, match=r"early.confidence = 0.9 is not between") as error:
        read(tmp_path, f"{text}[early]\nconfidence = 0.9\n")
    assert "0.999 is usual" in error.value.hint
