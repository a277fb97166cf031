"""Kill a road to a release anywhere, or let the disk fail anywhere: the next walk ends the same.

Every moment is tried that touches the store: 300 or so calls to the operating system. After each,
nothing half-made can be seen; the next walk redoes no finished stage and ends in the very digest of
a walk that nothing disturbed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from builders import files
from builders.errors import BuildersError
from fakes import faults, victim


@pytest.fixture(scope="module")
def arena():
    """A directory in memory where there is one: thousands of syncs cost nothing there."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="enginesmith-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def undisturbed(arena):
    """The digest and the count of moments of a walk that nothing disturbs."""
    root = arena / "undisturbed"
    root.mkdir()
    with faults.Faults(root / "s") as count:
        digest = victim.road(root / "s", root / "log")
    return digest, count.seen


def check_after_trouble(root):
    """Nothing half-made can be seen: each blob is what its name says, each record is whole."""
    blobs = root / "s" / "blobs" / "sha256"
    for blob in blobs.glob("*"):
        assert files.digest(blob) == blob.name
    for record in (root / "s" / "records").glob("*.json"):
        for entry in json.loads(record.read_bytes())["files"].values():
            assert (blobs / entry["sha256"]).stat().st_size == entry["size"]
    for release in (root / "s" / "releases").glob("*"):
        assert files.digest(release / "manifest.json") == release.name
        assert len([path for path in release.rglob("*") if path.is_file()]) == 7


def check_resumed(root, digest):
    assert victim.road(root / "s", root / "log") == digest
    lines = (root / "log").read_text().splitlines()
    for name in victim.STAGES:
        assert f"start {name}" not in lines[lines.index(f"done {name}") :], f"{name} was redone"
    assert list((root / "s" / "tmp").iterdir()) == []
    assert len(list((root / "s" / "channels").rglob("0*.json"))) == 1


def trouble(root, moment, strike):
    with (
        contextlib.suppress(BuildersError),
        faults.Faults(root / "s", at=moment, strike=strike),
    ):
        victim.road(root / "s", root / "log")


def killed_walk(root, moment):
    child = os.fork()
    if child == 0:
        trouble(root, moment, faults.killed)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_moment_a_road_resumes_to_the_same_release(arena, undisturbed):
    digest, moments = undisturbed
    for moment in range(1, moments + 1):
        root = arena / "killed"
        root.mkdir()
        killed_walk(root, moment)
        check_after_trouble(root)
        check_resumed(root, digest)
        shutil.rmtree(root)


@pytest.mark.slow
def test_a_disk_that_fails_at_any_moment_is_one_error_and_then_forgotten(arena, undisturbed):
    digest, moments = undisturbed
    for moment in range(1, moments + 1):
        root = arena / "failed"
        root.mkdir()
        trouble(root, moment, (faults.full, faults.forbidden)[moment % 2])
        check_after_trouble(root)
        check_resumed(root, digest)
        shutil.rmtree(root)


@pytest.mark.slow
def test_killed_again_and_again_at_random_a_road_still_arrives(arena, undisturbed):
    digest, _ = undisturbed
    root = arena / "random"
    root.mkdir()
    rng = random.Random(0)
    argv = [sys.executable, victim.__file__, root / "s", root / "log", "release", "0.3"]
    kills = 0
    while kills < 15:
        child = subprocess.Popen(argv)
        time.sleep(rng.uniform(0.15, 0.5))
        child.kill()
        kills += child.wait() == -signal.SIGKILL
        check_after_trouble(root)
        if child.returncode == 0:
            shutil.rmtree(root / "s")
            (root / "log").unlink()
    check_resumed(root, digest)
