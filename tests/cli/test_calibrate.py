"""``enginesmith calibrate sample`` writes what it picked, and says how many of how many."""

import json

from click.testing import CliRunner

from builders.cli.calibrate import command
from builders.errors import UsageError


def test_the_picked_lines_are_written_and_counted(tmp_path):
    file, out = tmp_path / "traffic.jsonl", tmp_path / "new" / "calib.jsonl"
    lines = [json.dumps({"text": f"question {n} about subject {n * n}"}) for n in range(30)]
    file.write_text("\n".join(lines) + "\n")
    arguments = ["sample", str(file), "--count", "4", "--out", str(out)]
    done = CliRunner().invoke(command, [*arguments, "--json"])
    assert json.loads(done.stdout) == {
        "picked": 4, "texts": 30, "distinct": 30, "path": str(out),
    }  # fmt: skip
    picked = out.read_text().splitlines()
    assert len(picked) == 4
    assert set(picked) <= set(lines)
    out.unlink()
    assert "4 of 30 texts" in CliRunner().invoke(command, arguments).stdout


def test_no_file_is_written_over_least_of_all_the_traffic(tmp_path):
    file = tmp_path / "traffic.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n')
    before = file.read_text()
    arguments = ["sample", str(file), "--count", "1", "--out", str(file)]
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, UsageError)
    assert "exists already" in str(done.exception)
    assert file.read_text() == before
