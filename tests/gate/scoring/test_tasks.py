"""All files behind a task are found without lm-eval, and a broken one is named before any work."""

import pytest

from builders.errors import UsageError
from builders.gate.scoring import tasks

TASK = """# items come from ../data/made.jsonl
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: ../data/items.jsonl  # or ../data/old.jsonl
    validation: "https://example.org/far.jsonl"
doc_to_text: !function utils.text
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/items.jsonl").write_text('{"q": 1}\n')
    (tmp_path / "tasks/utils.py").write_text("text = str\n")
    (tmp_path / "tasks/notes.md").write_text("no part of it\n")
    path = tmp_path / "tasks/mine.yaml"
    path.write_text(TASK)
    return path


def test_the_task_its_python_and_its_data_are_found(task):
    names = [path.name for path in tasks.files(task)]
    assert sorted(names) == ["items.jsonl", "mine.yaml", "utils.py"]
    tasks.check(task)


def test_missing_data_is_named_with_the_line_that_names_it(task):
    (task.parent.parent / "data/items.jsonl").unlink()
    with pytest.raises(UsageError, match=r"mine.yaml:6: names .*items.jsonl, which does not exist"):
        tasks.check(task)


@pytest.mark.parametrize(
    ("text", "error"), [("", "no items in it"), ('{"q": 1}\n{"q": \n', "items.jsonl:2: ")]
)
def test_data_that_cannot_be_read_is_named(task, text, error):
    (task.parent.parent / "data/items.jsonl").write_text(text)
    with pytest.raises(UsageError, match=error):
        tasks.check(task)


def test_a_file_that_is_no_task_is_refused(task):
    task.write_text("tusk: mine\n")
    with pytest.raises(UsageError, match="no lm-eval task"):
        tasks.check(task)
    with pytest.raises(UsageError, match="no such file"):
        tasks.check(task.parent / "none.yaml")
