"""The files behind an lm-eval task of one's own, found without lm-eval or a YAML reader.

A task file may name data files, include other task files and call Python beside it. All of them
decide what is measured, so all are part of the key: every ``.yaml`` and ``.py`` in the task's
folder, and every data file that a line names, relative to that folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builders.errors import UsageError
from builders.gate import jsonl

DATA: Final = re.compile(r"[^\s\"'\[\]{},]+\.(?:jsonl|json|csv|tsv|parquet|txt|arrow)(?![\w.])")


def files(task: Path) -> tuple[Path, ...]:
    """Return every file that may decide what the task measures, in a fixed order."""
    beside = [path for path in task.parent.iterdir() if path.suffix in {".yaml", ".yml", ".py"}]
    return tuple(sorted({task, *beside, *(path for _, path in data(task))}))


def data(task: Path) -> Iterator[tuple[int, Path]]:
    """Yield each data file that the task names, with the number of its line."""
    for number, line in enumerate(jsonl.text(task).split("\n"), start=1):
        for name in DATA.findall(line.split(" #")[0]) if not line.startswith("#") else ():
            if "://" not in name:
                yield number, (task.parent / name).resolve()


def check(task: Path) -> None:
    """Refuse a task that is no task, or whose data is missing, empty or not what it says."""
    if not re.search(r"^(task|group):", jsonl.text(task), re.MULTILINE):
        raise UsageError(f"{task}: no lm-eval task", hint='its YAML must have a line "task: NAME"')
    for number, path in data(task):
        if not path.is_file():
            raise UsageError(
                f"{task}:{number}: names {path}, which does not exist",
                hint="make the data, or mend the path (relative to the task's folder)",
            )
        if path.suffix == ".jsonl" and not any(True for _ in list(jsonl.objects(path))):
            raise UsageError(f"{path}: no items in it", hint="one JSON object a line")
