"""lm-eval, asked through our scorer, answers what its own ``hf`` model answers on the same weights.

And what lm-eval does in silence (truncating, counting broken items as wrong, printing) is an error
with a name, or does not happen.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.scoring import accuracy, harness
from builders.parse import Table
from builders.progress import silent
from fakes.scorers import Arithmetic, Transformers

DEMO = Path(__file__).parents[3] / "demo"
TASK = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: ../data/items.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""
TEXT = (
    "The statement is executed once for each item. If the expression is false, the loop ends and "
    "the suite of the else clause, if present, is executed. A list is a mutable sequence. "
)


def items(count):
    for number in range(count):
        words = TEXT.split()[number % 20 :]
        yield {
            "subject": "even" if number % 2 == 0 else "odd",
            "context": f"Item {number}: {' '.join(words[:9])}",
            "choices": [f" {' '.join(words[at : at + 3])}" for at in (9, 2, 5)],
            "answer": 0,
        }


@pytest.fixture
def task(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "data").mkdir()
    put(tmp_path, items(8))
    (tmp_path / "tasks/mine.yaml").write_text(TASK)
    return tmp_path


def put(folder, made):
    lines = "".join(json.dumps(item) + "\n" for item in made)
    (folder / "data/items.jsonl").write_text(lines)


def settings(folder, **values):
    data = {"task": "tasks/mine.yaml", **values}
    return accuracy.parse(Table(data, place="p.toml"), beside=folder, confidence=0.95)


def ask(folder, scorer=None, **values):
    return harness.ask(scorer or Arithmetic(), settings(folder, **values), silent)


@pytest.fixture(scope="session")
def demo():
    return Transformers(DEMO / "model")


@pytest.fixture(scope="session")
def oracle(demo):
    pytest.importorskip("accelerate", reason="lm-eval's own hf model needs it")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=demo.model, tokenizer=demo.tokenizer, batch_size=8, max_length=2048)


def test_each_item_is_a_sample_in_order(task):
    samples = ask(task)
    assert [one["unit"] for one in samples] == [f"mine/{number}" for number in range(8)]
    for one in samples:
        assert one["choices"] == len(one["loglikelihoods"]) == 3
        assert one["choice"] == one["loglikelihoods"].index(max(one["loglikelihoods"]))
        assert one["right"] == (one["choice"] == 0)


def test_a_choice_is_worth_what_its_tokens_are(task):
    scorer = Arithmetic()
    first = ask(task, scorer)[0]
    item = next(items(1))
    for choice, value in zip(item["choices"], first["loglikelihoods"], strict=True):
        tokens = scorer.tokenize(item["context"] + choice)
        (score,) = scorer.score([tokens])
        # The space between context and choice counts to the choice.
        assert value == pytest.approx(sum(score.logprobs.tolist()[-len(choice) :]))


def test_the_task_is_found_from_any_folder_and_leaves_no_trace(task, tmp_path, monkeypatch, capfd):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = sorted(task.rglob("*"))
    samples = harness.ask(Arithmetic(), settings(Path(os.path.relpath(task))), silent)
    assert len(samples) == 8
    assert Path.cwd() == elsewhere
    assert sorted(task.rglob("*")) == before
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_changed_data_is_read_anew(task):
    assert len(ask(task)) == 8
    put(task, items(5))
    assert len(ask(task)) == 5


def test_a_limit_and_shots_are_obeyed(task):
    assert len(ask(task, limit=3)) == 3
    path = task / "tasks/mine.yaml"
    path.write_text(path.read_text() + "fewshot_split: test\n")
    plain, shown = ask(task)[0], ask(task, shots=2)[0]
    assert plain["prompt_hash"] != shown["prompt_hash"]
    assert shown["prompt"].endswith(plain["prompt"])
    assert ask(task, shots=2)[0] == shown
    assert ask(task, shots=2, seed=7)[0]["prompt_hash"] != shown["prompt_hash"]


def test_few_items_are_evenly_spread_and_asked_as_among_all(task):
    put(task, items(20))
    text = (task / "tasks/mine.yaml").read_text()
    shots = "fewshot_split: test\nfewshot_config:\n  sampler: default\n"  # drawn item by item
    (task / "tasks/mine.yaml").write_text(text + shots)
    every = {one["unit"]: one for one in ask(task, shots=2)}
    chosen = replace(settings(task, shots=2), few=4)
    few = harness.ask(Arithmetic(), chosen, silent)
    assert [one["unit"] for one in few] == [f"mine/{number}" for number in (0, 5, 10, 15)]
    assert all(one == every[one["unit"]] for one in few)


def test_clusters_come_from_a_field_of_the_items_or_the_task(task):
    assert [one["cluster"] for one in ask(task, cluster="subject")][:2] == ["even", "odd"]
    assert {one["cluster"] for one in ask(task, cluster="task")} == {"mine"}
    with pytest.raises(UsageError, match="has no field subjet"):
        ask(task, cluster="subjet")


def test_groups_of_tasks_are_asked_whole(task):
    second = TASK.replace("task: mine", "task: other")
    (task / "tasks/other.yaml").write_text(second)
    (task / "tasks/both.yaml").write_text("group: both\ntask:\n  - mine\n  - other\n")
    samples = ask(task, task="tasks/both.yaml", cluster="task")
    assert {one["cluster"] for one in samples} == {"mine", "other"}
    assert len(samples) == 16


def test_nothing_is_ever_truncated(task):
    put(task, [*items(3), {**next(items(1)), "context": "word " * 200}])
    with pytest.raises(EvidenceError, match=r"item 3 of task mine has 10\d\d tokens") as error:
        ask(task)
    assert "nothing is truncated" in error.value.hint


def test_a_right_answer_that_is_no_choice_is_an_error_not_a_wrong_answer(task):
    put(task, [*items(3), {**next(items(1)), "answer": 3}])
    with pytest.raises(UsageError, match="item 3 of task mine: the right choice is number 3 of 3"):
        ask(task)


def test_an_empty_choice_is_named(task):
    put(task, [*items(2), {**next(items(1)), "choices": [" a", "", " b"]}])
    with pytest.raises(EvidenceError, match="item 2 of task mine has a choice without tokens"):
        ask(task)


def test_a_choice_that_melts_into_the_context_is_named(demo):
    with pytest.raises(EvidenceError, match="item 0 of task mine has a choice without tokens"):
        harness.ScorerLM(demo, silent).loglikelihood(_instances([("A", "B")]))


def test_a_metric_that_is_not_right_or_wrong_is_refused(task):
    with pytest.raises(UsageError, match="not right or wrong by acc_noon") as error:
        ask(task, metric="acc_noon")
    assert "acc, acc_norm" in error.value.hint


def test_a_task_that_wants_text_is_refused(task):
    path = task / "tasks/mine.yaml"
    text = TASK.replace("multiple_choice", "generate_until").replace("answer", '"x"')
    path.write_text(text.replace('doc_to_choice: "{{choices}}"\n', "").split("metric_list")[0])
    with pytest.raises(EvidenceError, match="task mine wants text generated"):
        ask(task)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("task: mine\n  bad: [", "mine.yaml"),
        ("task: mine\ndataset_path: json\n", "mine.yaml"),
        (TASK.replace("{{choices}}", "{{choices | nofilter}}"), "mine.yaml: .*nofilter"),
        (TASK.replace("items.jsonl", "none.jsonl"), "mine.yaml: .*none"),
    ],
)
def test_a_broken_task_is_named(task, text, error):
    (task / "tasks/mine.yaml").write_text(text)
    with pytest.raises((UsageError, EvidenceError), match=error):
        ask(task)


@pytest.mark.slow
def test_an_unknown_name_is_refused(task):
    with pytest.raises(UsageError, match="no task mmul"):
        ask(task, task="mmul")


def _instances(pairs):
    from lm_eval.api.instance import Instance

    return [
        Instance(
            request_type="loglikelihood", doc={}, arguments=pair, idx=0,
            metadata=("mine", number, 1),
        )
        for number, pair in enumerate(pairs)
    ]  # fmt: skip


def test_log_likelihoods_equal_those_of_lm_evals_own_model(demo, oracle):
    pairs = [
        ("The statement is", " executed once."),
        ("The statement is ", "executed once."),
        ("The statement is\n\n", "   executed"),
        ("", "executed once for each item"),
        ("", "<|endoftext|>executed once"),
        ("<|endoftext|>The statement", " is"),
        ("A", " B"),
        ("If the expression is", " false"),
        (TEXT * 8, " A list"),
    ]
    ours = harness.ScorerLM(demo, silent).loglikelihood(_instances(pairs))
    theirs = oracle.loglikelihood(_instances(pairs), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=2e-4)


def test_texts_are_scored_whole_as_lm_evals_own_model_does(demo, oracle):
    texts = [("A list is a mutable sequence.",), (TEXT * 6,)]
    ours = harness.ScorerLM(demo, silent).loglikelihood_rolling(_instances(texts))
    theirs = oracle.loglikelihood_rolling(_instances(texts), disable_tqdm=True)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_text_longer_than_the_context_is_scored_in_windows_and_each_token_once():
    scorer = Arithmetic(context=33)
    text = TEXT[:100]
    (whole,) = harness.ScorerLM(Arithmetic(), silent).loglikelihood_rolling(_instances([(text,)]))
    (parts,) = harness.ScorerLM(scorer, silent).loglikelihood_rolling(_instances([(text,)]))
    assert parts == pytest.approx(whole, rel=1e-6)  # one byte of context is all that counts here


def test_a_first_token_of_the_tokenizers_own_is_neither_lost_nor_doubled(demo):
    leading = Transformers.__new__(Transformers)
    leading.__dict__.update(demo.__dict__, _lead=[demo.prefix])
    model = harness.ScorerLM(leading, silent)
    plain = demo.tokenizer.encode("A list")
    assert model.tok_encode("A list") == [demo.prefix, *plain]
    assert model.tok_encode("<|endoftext|>A list") == [demo.prefix, *plain]
    assert model.tok_encode("A list", add_special_tokens=False) == plain


@pytest.mark.slow
def test_accuracy_equals_that_of_lm_evals_own_model(task, demo, oracle, monkeypatch):
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    put(task, items(20))
    monkeypatch.chdir(task / "tasks")
    loaded = TaskManager(include_path=".", include_defaults=False).load(["mine.yaml"])
    theirs = evaluate(lm=oracle, task_dict=loaded, bootstrap_iters=0)["samples"]["mine"]
    ours = ask(task, demo)
    for one, other in zip(ours, theirs, strict=True):
        assert one["right"] == other["acc"]
        assert one["prompt_hash"] == other["prompt_hash"]
        assert one["loglikelihoods"] == pytest.approx(
            [float(value) for value, _ in other["filtered_resps"]], abs=2e-4
        )
