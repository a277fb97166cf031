"""`engine.json` says the same for the same engine, and what is no engine is refused."""

import json

import pytest

from builders.engine import EngineSettings
from builders.engine.description import FILE, Description
from builders.errors import UsageError
from builders.formats import Format

SETTINGS = EngineSettings(context=64, concurrency=2, kv_cache=Format.FP8, dtype=Format.FP16)
WRONG_FORMAT = """{"runtime": "e", "version": "1", "quantization": "",
"settings": {"context": 1, "concurrency": 1, "kv_cache": "fp9", "dtype": null}}"""


def test_what_is_written_is_read_back(tmp_path):
    said = Description.of("embedded", SETTINGS, "FP8")
    said.write(tmp_path)
    assert Description.read(tmp_path) == said


def test_equal_descriptions_have_equal_bytes_and_no_path_or_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Description.of("embedded", SETTINGS, "").write(tmp_path / name)
    first, second = ((tmp_path / name / FILE).read_bytes() for name in ("a", "b"))
    assert first == second
    assert str(tmp_path).encode() not in first
    assert set(json.loads(first)) == {"runtime", "version", "quantization", "settings"}


def test_a_directory_without_a_description_is_no_engine(tmp_path):
    with pytest.raises(UsageError, match="no such file") as caught:
        Description.read(tmp_path)
    assert "engine directory" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"runtime": "embedded"}',
        WRONG_FORMAT,
    ],
)
def test_a_damaged_description_names_its_file(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match=FILE):
        Description.read(tmp_path)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": 8, "concurrency": 0}])
def test_settings_without_room_are_refused(wrong):
    with pytest.raises(UsageError, match="at least 1"):
        EngineSettings(**wrong)
