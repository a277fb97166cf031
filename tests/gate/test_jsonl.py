"""Files of one object a line are read whole, or refused with the line that is wrong."""

import pytest

from builders.errors import UsageError
from builders.gate import jsonl


def test_objects_come_with_their_line_numbers_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"b": "x\\u2028y"}\n')
    assert list(jsonl.objects(path)) == [(1, {"a": 1}), (3, {"b": "x\u2028y"})]


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"a": 1} {"b": 2}'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 16 + line + "\n")
    with pytest.raises(UsageError, match=rf"{path}:17: "):
        list(jsonl.objects(path))


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        jsonl.text(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=str(tmp_path / "bytes")):
        jsonl.text(tmp_path / "bytes")
    with pytest.raises(UsageError, match=str(tmp_path)):
        jsonl.text(tmp_path)
