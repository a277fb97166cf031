"""The scripts of CI are short, take what they need, and pass exit codes through."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> "$SAID"
[ "$1" != "${FAIL_AT:-}" ] || exit "$CODE"
"""
USES = {
    "build-tier": ["release.toml", "h100", "out", "--set", "serve.name=x"],
    "gate-release": ["release.toml", "report", "--set", "serve.name=x"],
    "deploy": ["h100/stable", "--host", "0.0.0.0"],
    "verify-on-gpu": ["h100", "--set", "model.path=m"],
}
RELEASE = (
    "release demo/on-gpu.toml --set target.tier=h100 --set target.lane={lane} "
    "--set release.channel=h100/{lane} --set model.path=m"
)
LANES = [
    line.format(lane=lane)
    for lane in ("llmapi", "tensorrt")
    for line in (RELEASE, "verify h100/{lane}")
]
SCORES = (
    "gate demo/on-gpu.toml --set target.tier=h100 "
    "--set gates.policy=on-gpu-scores.toml --set model.path=m"
)
SAYS = {
    "build-tier": [
        "plan release.toml --set target.tier=h100 --set serve.name=x",
        "render release.toml --set target.tier=h100 --out out --set serve.name=x",
        "lint out",
    ],
    "gate-release": ["gate release.toml --json --out report --set serve.name=x"],
    "deploy": ["verify h100/stable", "serve h100/stable --host 0.0.0.0"],
    "verify-on-gpu": ["doctor", *LANES, SCORES],
}


@pytest.fixture
def run(tmp_path):
    """Run a script where a stand-in writes down what enginesmith is told."""
    for name, text in {"enginesmith": STAND_IN, "python3": "#!/bin/sh\nexit 0\n"}.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    said = tmp_path / "said"

    def ran(script, *arguments, **env):
        said.write_text("")
        own = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SAID": str(said)} | env
        done = subprocess.run(
            [SCRIPTS / script, *arguments],
            env=os.environ | own, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, said.read_text().splitlines(), done.stderr

    return ran


@pytest.mark.parametrize("script", [path.name for path in sorted(SCRIPTS.iterdir())])
def test_a_script_is_short_strict_and_can_be_run(script):
    path = SCRIPTS / script
    lines = path.read_text().splitlines()
    assert len(lines) <= 20
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("script", USES)
def test_a_script_says_what_it_should(run, script):
    code, said, _ = run(script, *USES[script])
    assert (code, said) == (0, SAYS[script])


@pytest.mark.parametrize("script", USES)
def test_every_exit_code_passes_through_and_nothing_follows_a_failure(run, script):
    for place, line in enumerate(SAYS[script]):
        command = line.split()[0]
        first = [said.split()[0] for said in SAYS[script]].index(command)
        for code in (3, 4, 5, 6, 10, 11):
            ended, said, _ = run(script, *USES[script], FAIL_AT=command, CODE=str(code))
            assert ended == code
            assert len(said) == first + 1 <= place + 1


@pytest.mark.parametrize("script", USES)
def test_too_few_arguments_are_a_question_of_usage(run, script):
    code, said, told = run(script)
    assert (code, said) == (2, [])
    assert "usage: " in told


def test_wheels_are_installed_only_where_the_image_has_none_and_torch_stays(tmp_path):
    """The image is two stand-ins: one knows torch and click, the other loses its torch."""
    (tmp_path / "wheels").mkdir()
    for name in ("click-8.0-py3-none-any.whl", "enginesmith-0.1.0-py3-none-any.whl"):
        (tmp_path / "wheels" / name).touch()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    python = f"""#!/usr/bin/env bash
case "$*" in
  *"v('torch')"*) if [ -e {tmp_path}/lost ]; then echo 9.9; else echo 2.10+nv; fi;;
  *"v('click')"*) exit 0;;
  *"v('enginesmith')"*) exit 1;;
  *) echo "$*" >> {tmp_path}/said; [ -z "${{LOSE:-}}" ] || touch {tmp_path}/lost;;
esac
"""
    for name, text in {"python3": python, "enginesmith": "#!/bin/sh\necho 0.1.0\n"}.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    for lose, code in (("", 0), ("1", 1)):
        own = {"PATH": f"{bin_}:/usr/bin:/bin", "LOSE": lose}
        done = subprocess.run(
            [SCRIPTS / "install-beside", tmp_path / "wheels"],
            env=os.environ | own, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert "torch 2.10+nv was replaced" in done.stderr
    installed = (tmp_path / "said").read_text().splitlines()[0]
    assert "--no-index --no-deps" in installed
    assert installed.endswith("enginesmith-0.1.0-py3-none-any.whl")
