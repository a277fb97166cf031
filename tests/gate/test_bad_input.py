"""What goes wrong in practice ends in a named outcome with its exit code, never in a pass.

Scoring gates only; what a server can do wrong is in test_latency, test_coherence, test_gpu and
test_prompts.
"""

import json

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate import evidence
from builders.gate.scoring import accuracy, harness, perplexity
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.scorers import Arithmetic, Broken

WORDS = "the cat sat on the mat and looked at the rain, which fell as it falls in autumn; "
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: items.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{template}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def folder(tmp_path):
    texts = [json.dumps({"text": f"{number} {WORDS * 8}"}) for number in range(6)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(texts))
    items = [{"context": f"{n} {WORDS}", "choices": ["a", "b", "c"]} for n in range(8)]
    (tmp_path / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    (tmp_path / "mine.yaml").write_text(TASK.format(template="{{context}}"))
    return tmp_path


def scored(folder, **values):
    data = {"corpus": ["corpus.jsonl"], "window": 64, **values}
    return perplexity.parse(Table(data, place="p"), beside=folder, confidence=0.95)


def asked(folder, **values):
    data = {"task": "mine.yaml", "margin": 0.01, **values}
    return accuracy.parse(Table(data, place="p"), beside=folder, confidence=0.95)


def kept(folder, count, *, right=1, first=0, values=(-1.0, -2.0)):
    folder.mkdir()
    samples = [
        {
            "unit": f"t/{number}", "cluster": "t", "choices": 2, "choice": 0, "right": right,
            "loglikelihoods": [value - number / 100 for value in values],
            "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
        }
        for number in range(first, first + count)
    ]  # fmt: skip
    evidence.write(folder, gate="accuracy", settings={}, samples=samples)
    return folder


def test_ten_items_and_a_margin_of_one_percent_are_inconclusive(folder):
    pair = kept(folder / "a", 10), kept(folder / "b", 10)
    (verdict,) = accuracy.judge(*pair, asked(folder))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "259 more than now" in verdict.detail


@pytest.mark.parametrize(("count", "first"), [(9, 0), (11, 0), (10, 1)])
def test_other_items_on_either_side_are_no_comparison(folder, count, first):
    pair = kept(folder / "a", 10), kept(folder / "b", count, first=first)
    with pytest.raises(EvidenceError, match="measured for the") as error:
        accuracy.judge(*pair, asked(folder))
    assert error.value.exit_code == 5


def test_a_server_that_ignores_what_it_should_score_is_void(folder):
    samples = kept(folder / "a", 10, values=(0.0, 0.0)), kept(folder / "b", 10, values=(0.0, 0.0))
    with pytest.raises(
        EvidenceError, match="void, for the baseline all choices are equally likely"
    ):
        accuracy.judge(*samples, asked(folder))


def test_a_baseline_at_chance_is_void(folder):
    pair = kept(folder / "a", 40, right=0), kept(folder / "b", 40)
    with pytest.raises(EvidenceError, match="void, the baseline is right in 0 of 40"):
        accuracy.judge(*pair, asked(folder))


def test_a_prompt_that_does_not_fit_is_an_error_and_is_not_cut(folder):
    with pytest.raises(EvidenceError, match="more than the model's context of 20"):
        harness.ask(Arithmetic(context=20), asked(folder), silent)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_no_evidence(folder, value):
    for gate, chosen in ((perplexity, scored(folder)), (accuracy, asked(folder))):
        out = folder / f"out-{gate.NAME}"
        out.mkdir()
        with pytest.raises(EvidenceError, match="not a finite number"):
            gate.measure(Broken(Arithmetic(), value), chosen, out, silent)
        assert not any(out.iterdir())


@pytest.mark.parametrize(
    "template", ["{{context.nothing.at_all}}", "{{raise_exception('no')}}", "{{1 / 0}}"]
)
def test_a_template_that_bombs_is_named(folder, template):
    (folder / "mine.yaml").write_text(TASK.format(template=template))
    with pytest.raises((EvidenceError, UsageError), match=r"mine\.yaml") as error:
        harness.ask(Arithmetic(), asked(folder), silent)
    assert error.value.exit_code in {2, 5}
    assert error.value.hint


@pytest.mark.parametrize(
    ("file", "text"),
    [("samples.jsonl", ""), ("samples.jsonl", '{"unit": NaN}\n'), ("meta.json", "{")],
)
def test_evidence_that_is_torn_or_poisoned_judges_nothing(folder, file, text):
    pair = kept(folder / "a", 40), kept(folder / "b", 40)
    (pair[1] / file).write_text(text)
    with pytest.raises(EvidenceError, match=r"not a number|no evidence|not all of"):
        accuracy.judge(*pair, asked(folder))
