"""The installed command and the function behind it are one; --debug shows an error's traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from builders import cli

COMMAND = str(Path(sys.executable).parent / "enginesmith")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), (["recipes"], 0), (["relase"], 2), (["show", "x/y"], 6)],
)
def test_the_installed_command_prints_and_returns_the_same(
    tmp_path, monkeypatch, capsys, arguments, code
):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert cli.run(arguments) == code
    assert (done.returncode, done.stdout, done.stderr) == (code, *capsys.readouterr())


def test_debug_shows_the_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["--debug", "show", "x/y"]) == 6
    assert "Traceback" in capsys.readouterr().err


def test_every_command_has_help_that_starts_with_a_sentence(capsys):
    for name in cli.COMMANDS:
        assert cli.run([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Usage: enginesmith")
        assert "." in out.partition("\n\n")[2]


def test_a_closed_pipe_is_no_error():
    piped = f"{COMMAND} matrix-of-support | head -1"
    done = subprocess.run(piped, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
