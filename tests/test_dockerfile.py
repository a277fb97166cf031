"""The Dockerfile keeps hadolint's rules and the ledger's versions, and the promises it makes."""

import json
import re
from pathlib import Path

import pytest

from builders import ledger

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)


def instructions(text):
    """Return each instruction with its text, comments gone and lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [WORDS.match(line).groups() for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def file():
    return instructions((ROOT / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def stages(file):
    """Return the instructions of each stage by its name."""
    found = {}
    for word, rest in file:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        elif found:
            found[list(found)[-1]].append((word, rest))
    return found


def arguments(file):
    return dict(rest.split("=", 1) for word, rest in file if word == "ARG" and "=" in rest)


def test_every_base_image_has_a_version_given_by_argument(file):
    images = [rest.split(" AS ")[0] for word, rest in file if word == "FROM"]
    assert len(images) == 4
    for image in images:  # DL3006, DL3007
        tag = image.rpartition(":")[2]
        assert "latest" not in image
        assert re.search(r"\$\{\w+\}", tag)
    assert all(re.fullmatch(r"[0-9.]+", v) for v in list(arguments(file).values())[:3])


def test_the_versions_are_those_of_the_ledger(file):
    given = arguments(file)
    assert given["TRTLLM_VERSION"] == ledger.newest("trtllm")
    assert given["TRITON_TAG"] in ledger.release(given["TRTLLM_VERSION"]).tags
    assert not ledger.unsafe("triton", given["TRITON_TAG"])
    assert not ledger.unsafe("trtllm", given["TRTLLM_VERSION"])
    images = " ".join(rest for word, rest in file if word == "FROM")
    for image in (ledger.triton_image("1.2.1"), ledger.trtllm_image("1.2.1")):
        assert image.rpartition(":")[0] in images


@pytest.mark.parametrize("stage", ["check", "engine", "serve"])
def test_nothing_runs_as_root(stages, stage):  # DL3002
    users = [rest for word, rest in stages[stage] if word == "USER"]
    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}


def test_files_are_copied_into_a_known_folder(file, stages):  # DL3020, DL3045, DL3000, DL3003
    assert not [rest for word, rest in file if word == "ADD"]
    for rows in stages.values():
        folder = False
        for word, rest in rows:
            folder |= word == "WORKDIR"
            target = rest.split()[-1]
            assert word != "COPY" or target.startswith("/") or folder
            assert word != "WORKDIR" or rest.startswith("/")
            assert word != "RUN" or not re.search(r"(^|&& )cd ", rest)


def test_commands_and_checks_of_health_are_lists(file):  # DL3025
    for word, rest in file:
        if word in {"CMD", "ENTRYPOINT"}:
            assert all(isinstance(item, str) for item in json.loads(rest))
        if word == "HEALTHCHECK":
            assert json.loads(rest.partition("CMD ")[2])


def test_what_is_installed_leaves_no_cache_and_is_pinned(file):  # DL3009, DL3013, DL3042
    for word, rest in file:
        if word == "RUN" and "pip" in rest:
            assert "--no-cache-dir" in rest
            assert "-c constraints.txt" in rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
        assert word != "RUN" or not re.search(r"\bsudo\b|apt-get upgrade|\bapt install\b", rest)
        assert word != "RUN" or " | " not in rest  # DL4006


@pytest.mark.parametrize("stage", ["engine", "serve"])
def test_nvidia_s_images_keep_their_torch_and_stay_offline(stages, stage):
    text = " ".join(f"{word} {rest}" for word, rest in stages[stage])
    assert "pip install" not in text  # only beside what is there, see scripts/install-beside
    assert "RUN install-beside /wheels" in text
    for name in ("HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "TRTLLM_NO_USAGE_STATS=1"):
        assert name in text
    assert 'ENTRYPOINT ["enginesmith"]' in text


def test_nothing_of_the_desk_travels_into_an_image():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".enginesmith", "demo/data"} <= set(ignored)
