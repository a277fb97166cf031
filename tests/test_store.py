"""A stage is done once for the same inputs; what the disk lost, refused or damaged is survived."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders import files
from builders.bundle import Tree
from builders.errors import BuildersError, ReleaseError, ToolError, UsageError
from builders.store import Store
from fakes import faults, victim


@pytest.fixture
def store(tmp_path):
    return Store.at(tmp_path / "store")


def writes(**contents):
    def work(out):
        for name, text in contents.items():
            (out / name).write_text(text)

    return work


def never(_):
    raise AssertionError("the stage was done again")


def leftovers(store):
    return list((store.root / "tmp").iterdir())


def blob_of(stage, number=0):
    """The blob behind a stage's file; tests damage it as a broken disk would."""
    root = stage.path.parents[1]
    return root / "blobs" / "sha256" / stage.tree.artifacts[number].sha256


# --- what a stage gives


def test_a_stage_runs_once_for_the_same_inputs(store):
    first = store.run("quantize", inputs={"recipe": "fp8"}, work=writes(a="1"))
    again = store.run("quantize", inputs={"recipe": "fp8"}, work=never)
    assert (first.cached, again.cached) == (False, True)
    assert (first.key, first.tree, first.path) == (again.key, again.tree, again.path)
    assert (again.path / "a").read_text() == "1"


def test_the_tree_is_the_directorys_tree(store):
    stage = store.run("quantize", inputs={}, work=writes(a="1", b="2"))
    assert Tree.of(stage.path) == stage.tree
    assert stage.path.name == stage.tree.digest


def test_the_order_of_inputs_makes_no_difference(store):
    first = store.run("plan", inputs={"a": 1, "b": 2}, work=writes(x=""))
    assert store.run("plan", inputs={"b": 2, "a": 1}, work=never).key == first.key


@pytest.mark.parametrize(
    ("name", "inputs", "version"), [("b", {"x": 1}, 1), ("a", {"x": 2}, 1), ("a", {"x": 1}, 2)]
)
def test_name_inputs_and_version_each_make_another_key(store, name, inputs, version):
    first = store.run("a", inputs={"x": 1}, work=writes(f="1"))
    other = store.run(name, inputs=inputs, version=version, work=writes(f="1"))
    assert other.key != first.key
    assert not other.cached
    assert other.path == first.path  # equal content lies once


def test_files_are_read_only_and_never_executable(store):
    def work(out):
        (out / "run.sh").write_text("#!/bin/sh\n")
        (out / "run.sh").chmod(0o755)

    stage = store.run("render", inputs={}, work=work)
    assert stat.S_IMODE((stage.path / "run.sh").stat().st_mode) == 0o444


def test_equal_files_take_their_space_once(store):
    stage = store.run("render", inputs={}, work=writes(a="same", b="same"))
    assert (stage.path / "a").samefile(stage.path / "b")


def test_a_link_to_an_earlier_stages_file_is_not_read_again(store, monkeypatch):
    first = store.run("quantize", inputs={}, work=writes(weights="w" * 99))
    hashed = []
    digest = files.digest
    monkeypatch.setattr(files, "digest", lambda path: hashed.append(path.name) or digest(path))

    def work(out):
        os.link(first.path / "weights", out / "model")
        (out / "config").write_text("c")

    second = store.run("build", inputs={}, work=work)
    assert hashed == ["config"]
    assert (second.path / "model").samefile(first.path / "weights")
    assert Tree.of(second.path) == second.tree


def test_a_link_to_a_users_file_becomes_a_copy(store, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("before")
    stage = store.run("build", inputs={}, work=lambda out: os.link(theirs, out / "f"))
    theirs.write_text("after!")
    assert (stage.path / "f").read_text() == "before"
    assert theirs.stat().st_mode & stat.S_IWUSR


def test_inputs_that_are_not_json_are_a_mistake_of_the_caller(store):
    with pytest.raises(TypeError):
        store.run("plan", inputs={"path": Path("/tmp")}, work=never)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.run("plan", inputs={"x": float("nan")}, work=never)


def test_a_stages_name_may_hold_anything(store):
    for name in ("perplexity/baseline", "../../escape", "naïve\n", "n" * 400):
        store.run(name, inputs={}, work=writes(a=name))
        assert store.run(name, inputs={}, work=never).why.startswith("unchanged since")
    assert {path.parent for path in store.root.parent.rglob("*escape*")} == {store.root / "last"}


# --- why


def test_the_first_run_says_so(store):
    assert store.run("plan", inputs={}, work=writes()).why == "first run"


def test_an_unchanged_stage_names_its_key(store):
    key = store.run("plan", inputs={}, work=writes()).key
    assert store.run("plan", inputs={}, work=never).why == f"unchanged since {key[:8]}"


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"a": {"b": "x"}, "n": 2}, "n changed: 1 → 2"),
        ({"a": {"b": "y"}, "n": 1}, "a.b changed: x → y"),
        ({"a": {}, "n": 1}, "a is new: {}; a.b is gone: was x"),
        ({"a": {"b": "x"}}, "n is gone: was 1"),
        ({"a": {"b": "x"}, "n": 1, "digest": "0123456789abcdef" * 4}, "digest is new: 01234567…"),
        (
            {"a": {"b": "x", "c": "sha256:" + "f" * 64}, "n": 1},
            "a.c is new: sha256:ffffffff…",
        ),
        (
            {"a": {"b": "x"}, "n": 1, "p": 1, "q": 2, "r": 3, "s": 4, "t": 5},
            "p is new: 1; q is new: 2; r is new: 3; and 2 more",
        ),
    ],
)
def test_a_changed_stage_names_what_changed(store, inputs, why):
    store.run("quantize", inputs={"a": {"b": "x"}, "n": 1}, work=writes())
    assert store.run("quantize", inputs=inputs, work=writes()).why == why


def test_a_new_code_version_is_named(store):
    store.run("quantize", inputs={"n": 1}, work=writes())
    again = store.run("quantize", inputs={"n": 1}, version=2, work=writes())
    assert again.why == "code version changed: 1 → 2"


def test_the_difference_is_to_what_was_asked_last_even_if_nothing_ran(store):
    for number in (1, 2, 1):
        store.run("quantize", inputs={"n": number}, work=writes())
    assert store.run("quantize", inputs={"n": 3}, work=writes()).why == "n changed: 1 → 3"


def test_two_qualifiers_of_one_gate_do_not_meet(store):
    store.run("perplexity/baseline", inputs={"n": 1}, work=writes())
    assert store.run("perplexity/candidate", inputs={"n": 2}, work=writes()).why == "first run"


# --- what the disk lost


def test_an_evicted_blob_is_a_miss(store):
    stage = store.run("quantize", inputs={}, work=writes(a="1"))
    blob_of(stage).unlink()
    again = store.run("quantize", inputs={}, work=writes(a="1"))
    assert not again.cached
    assert again.why == "its record or a blob was missing"
    assert store.run("quantize", inputs={}, work=never).cached


def test_a_truncated_blob_is_a_miss_and_is_mended(store):
    stage = store.run("quantize", inputs={}, work=writes(a="whole"))
    blob_of(stage).chmod(0o644)
    blob_of(stage).write_text("who")
    again = store.run("quantize", inputs={}, work=writes(a="whole"))
    assert not again.cached
    assert (again.path / "a").read_text() == "whole"
    assert store.run("quantize", inputs={}, work=never).cached


def test_a_blob_with_flipped_bits_is_dropped_when_it_is_checked_and_then_made_anew(store):
    stage = store.run("quantize", inputs={}, work=writes(a="whole"))
    blob_of(stage).chmod(0o644)
    blob_of(stage).write_text("wHole")
    with pytest.raises(ReleaseError, match=r"a: its copy in the store .* was damaged") as caught:
        store.blobs.check(stage.tree)
    assert "run the same command again" in caught.value.hint
    again = store.run("quantize", inputs={}, work=writes(a="whole"))
    assert (again.path / "a").read_text() == "whole"
    store.blobs.check(again.tree)


def test_new_content_heals_a_blob_with_flipped_bits(store):
    stage = store.run("quantize", inputs={"n": 1}, work=writes(a="whole"))
    blob_of(stage).chmod(0o644)
    blob_of(stage).write_text("wHole")
    again = store.run("quantize", inputs={"n": 2}, work=writes(a="whole"))
    assert (again.path / "a").read_text() == "whole"
    store.blobs.check(again.tree)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"stage": 1}', b"\xff", b"[" * 9999, b'{"files": []}']
)
def test_a_damaged_record_is_a_miss(store, damage):
    stage = store.run("quantize", inputs={}, work=writes(a="1"))
    (store.root / "records" / f"{stage.key}.json").write_bytes(damage)
    (store.root / "last" / "quantize.json").write_bytes(damage)
    assert not store.run("quantize", inputs={}, work=writes(a="1")).cached
    assert store.run("quantize", inputs={}, work=never).cached


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "", "a//b", "."])
def test_a_record_whose_paths_leave_the_tree_is_a_miss(store, path):
    stage = store.run("quantize", inputs={}, work=writes(a="1"))
    record = store.root / "records" / f"{stage.key}.json"
    data = json.loads(record.read_text())
    data["files"][path] = data["files"].pop("a")
    record.write_text(json.dumps(data))
    assert not store.run("quantize", inputs={}, work=writes(a="1")).cached


def test_a_record_under_another_key_is_a_miss(store):
    one = store.run("quantize", inputs={"n": 1}, work=writes(a="1"))
    two = store.run("quantize", inputs={"n": 2}, work=writes(a="2"))
    records = store.root / "records"
    shutil.copy(records / f"{one.key}.json", records / f"{two.key}.json")
    assert not store.run("quantize", inputs={"n": 2}, work=writes(a="2")).cached


@pytest.mark.parametrize("meddle", ["remove", "extra", "replace"])
def test_a_tree_that_somebody_meddled_with_is_laid_out_anew(store, meddle):
    stage = store.run("quantize", inputs={}, work=writes(a="1", b="2"))
    if meddle == "remove":
        shutil.rmtree(stage.path)
    elif meddle == "extra":
        (stage.path / "__pycache__").mkdir()
        (stage.path / "__pycache__" / "model.pyc").touch()
    else:
        (stage.path / "a").unlink()
        (stage.path / "a").write_text("x")
    again = store.run("quantize", inputs={}, work=never)
    assert Tree.of(again.path) == stage.tree
    assert leftovers(store) == []


# --- what is refused


@pytest.mark.parametrize("make", ["symlink", "directory", "pipe"])
def test_links_and_devices_are_refused(store, make):
    def work(out):
        {
            "symlink": lambda: (out / "odd").symlink_to("/etc/passwd"),
            "directory": lambda: (out / "odd").symlink_to("/etc", target_is_directory=True),
            "pipe": lambda: os.mkfifo(out / "odd"),
        }[make]()

    with pytest.raises(ReleaseError, match="odd: only plain files"):
        store.run("render", inputs={}, work=work)
    assert leftovers(store) == []


def test_a_foreign_directory_is_no_store(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="neither empty nor an enginesmith store"):
        Store.at(tmp_path)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="must be a directory"):
        Store.at(tmp_path / "file")


def test_a_store_of_a_later_layout_is_left_alone(store):
    store.run("plan", inputs={}, work=writes())
    (store.root / "enginesmith-store.json").write_text('{"layout": 2}')
    with pytest.raises(ReleaseError, match="layout 2"):
        Store.at(store.root)


def test_opening_a_store_creates_nothing(store):
    assert not store.root.exists()


# --- failure and trouble


def test_a_failing_stage_leaves_nothing_and_is_done_again(store):
    def fails(out):
        (out / "half").write_text("x")
        raise BuildersError("no")

    with pytest.raises(BuildersError, match="no"):
        store.run("quantize", inputs={}, work=fails)
    assert leftovers(store) == []
    assert list((store.root / "blobs" / "sha256").iterdir()) == []
    assert store.run("quantize", inputs={}, work=writes(a="1")).why == "first run"


def test_an_interrupted_stage_leaves_nothing(store):
    def interrupted(out):
        (out / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run("quantize", inputs={}, work=interrupted)
    assert leftovers(store) == []


def test_a_mistake_in_a_stages_code_is_not_dressed_up(store):
    with pytest.raises(FileNotFoundError):
        store.run("quantize", inputs={}, work=lambda out: (out / "no" / "file").write_text("x"))


@contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_ends_in_one_line_with_a_next_step(store):
    store.run("plan", inputs={}, work=writes(a="1"))
    with (
        file_size_limit(1 << 16),
        pytest.raises(ToolError, match=r"quantize: .*File too") as caught,
    ):
        store.run("quantize", inputs={}, work=writes(a="x" * (1 << 17)))
    assert "free space" in caught.value.hint
    assert leftovers(store) == []
    assert not store.run("quantize", inputs={}, work=writes(a="1")).cached
    assert store.run("plan", inputs={}, work=never).cached


def test_a_library_that_words_a_full_disk_its_own_way_is_understood(store):
    def work(_):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os 28)")

    with pytest.raises(ToolError, match=r"quantize: .*No space left on device"):
        store.run("quantize", inputs={}, work=work)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_really_full_disk_resumes_once_there_is_room(tmp_path):
    """Run in a mount namespace of its own, on a file system of one MiB."""
    script = """
import sys
from pathlib import Path
from builders.errors import ToolError
from builders.store import Store
root = Path(sys.argv[1])
store = Store.at(root / "store")
store.run("plan", inputs={}, work=lambda out: (out / "a").write_bytes(b"1" * 99999))
big = lambda out: [(out / f"{n}.bin").write_bytes(b"%d" % n * 300_000) for n in range(2)]
for filler in (800_000, 600_000, 450_000):
    (root / "filler").write_bytes(b"x" * filler)
    try:
        store.run("quantize", inputs={}, work=big)
    except ToolError as error:
        assert "No space left" in str(error), error
    else:
        raise SystemExit("there was room")
    assert not list((store.root / "tmp").iterdir())
(root / "filler").unlink()
assert not store.run("quantize", inputs={}, work=big).cached
assert store.run("plan", inputs={}, work=None).cached
print("resumed")
"""
    mount = 'mount -t tmpfs -o size=1m none "$1" 2>/dev/null || exit 77; exec "$2" -c "$3" "$1"'
    argv = ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, script]
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("nobody may mount here")
    assert done.stdout == "resumed\n", done.stderr


@contextmanager
def read_only(root):
    """A store that this process may not write: as nobody where tests run as root."""
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in root.parents:
        parent.stat().st_uid == os.geteuid() and parent.chmod(parent.stat().st_mode | 0o055)
    if root_user := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root_user:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_store_answers_what_it_has_and_refuses_the_rest(store):
    store.run("plan", inputs={"n": 1}, work=writes(a="1"))
    store.run("plan", inputs={"n": 2}, work=writes(a="2"))
    with read_only(store.root):
        assert Store.at(store.root).run("plan", inputs={"n": 1}, work=never).cached
        with pytest.raises(ToolError, match=r"plan: .*Permission denied") as caught:
            store.run("plan", inputs={"n": 3}, work=never)
    assert "mend permissions" in caught.value.hint


# --- builders side by side


def test_a_second_builder_waits_says_so_and_reuses(store):
    entered, release, said, answers = threading.Event(), threading.Event(), [], []

    def slow(out):
        entered.set()
        release.wait(10)
        (out / "a").write_text("1")

    def first():
        answers.append(store.run("quantize", inputs={}, work=slow))

    def told(what):
        said.append(what)
        release.set()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    second = store.run("quantize", inputs={}, work=never, waiting=told)
    thread.join()
    assert second.cached
    assert second.tree == answers[0].tree
    assert said == ["another run works on this stage; waiting for it"]


def test_the_directory_of_a_live_builder_is_not_swept(store):
    def work(out):
        (out / "a").write_text("1")
        store.run("build", inputs={}, work=writes(b="2"))
        assert (out / "a").exists()

    assert store.run("quantize", inputs={}, work=work).tree.size == 1


def test_what_a_dead_builder_left_is_swept_by_the_next_of_any_key(store):
    store.run("plan", inputs={}, work=writes())
    dead = store.root / "tmp" / f"{'0' * 64}.abcd"
    (dead / "out").mkdir(parents=True)
    (dead / "out" / "half").touch()
    store.run("quantize", inputs={}, work=writes())
    assert leftovers(store) == []


def test_racing_builders_do_each_stage_once(tmp_path):
    racers = [start(tmp_path, pause=0.2) for _ in range(4)]
    assert [racer.wait(60) for racer in racers] == [0, 0, 0, 0]
    lines = (tmp_path / "log").read_text().split("\n")
    assert sorted(line for line in lines if line.startswith("start")) == sorted(
        f"start {name}" for name in victim.STAGES
    )
    assert len({line for line in lines if line.startswith("promoted")}) == 1


def start(tmp_path, *, pause):
    argv = [
        sys.executable,
        victim.__file__,
        tmp_path / "s",
        tmp_path / "log",
        "release",
        str(pause),
    ]
    return subprocess.Popen(argv)


# --- copies for the user


def test_a_tree_is_copied_out_whole_and_writable(store, tmp_path):
    stage = store.run("quantize", inputs={}, work=writes(a="1", b="2"))
    out = tmp_path / "deep" / "out"
    store.materialise(stage.tree, out)
    assert Tree.of(out) == stage.tree
    (out / "a").write_text("mine")
    assert (stage.path / "a").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_empty_directory_of_the_users_is_filled(store, tmp_path):
    stage = store.run("quantize", inputs={}, work=writes(a="1"))
    (tmp_path / "out").mkdir()
    store.materialise(stage.tree, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "1"


@pytest.mark.parametrize("kind", ["full", "file"])
def test_what_the_user_has_is_never_overwritten(store, tmp_path, kind):
    stage = store.run("quantize", inputs={}, work=writes(a="1"))
    out = tmp_path / "out"
    if kind == "full":
        out.mkdir()
        (out / "mine").touch()
    else:
        out.touch()
    with pytest.raises(UsageError, match="not an empty directory"):
        store.materialise(stage.tree, out)


def test_a_damaged_blob_is_not_copied_out(store, tmp_path):
    stage = store.run("quantize", inputs={}, work=writes(a="whole"))
    blob_of(stage).chmod(0o644)
    blob_of(stage).write_text("wHole")
    with pytest.raises(ReleaseError, match="was damaged"):
        store.materialise(stage.tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ReleaseError, match="was damaged"):
        store.materialise(stage.tree, tmp_path / "out")  # gone by now


def test_a_copy_that_cannot_be_written_leaves_nothing(store, tmp_path):
    stage = store.run("quantize", inputs={}, work=writes(a="1" * (1 << 17)))
    with file_size_limit(1 << 16), pytest.raises(ToolError, match=r"write .*File too large"):
        store.materialise(stage.tree, tmp_path / "to" / "out")
    assert list((tmp_path / "to").iterdir()) == []


def test_faults_strike_where_they_are_told(tmp_path):
    with faults.Faults(tmp_path, at=1, strike=faults.forbidden), pytest.raises(PermissionError):
        os.link(tmp_path / "a", tmp_path / "b")


def test_a_reused_stage_still_knows_how_long_its_work_took(tmp_path):
    store = Store.at(tmp_path / "store")
    ran = store.run("x", inputs={}, work=lambda out: (out / "f").write_text("y"))
    again = store.run("x", inputs={}, work=lambda _: None)
    assert (ran.cached, again.cached) == (False, True)
    assert again.worked == ran.worked


def test_finding_a_stage_runs_nothing_and_creates_nothing(tmp_path):
    store = Store.at(tmp_path / "store")
    assert store.find("x", inputs={}) == (None, "first run")
    assert not (tmp_path / "store").exists()
    ran = store.run("x", inputs={}, work=lambda out: (out / "f").write_text("y"))
    found, why = store.find("x", inputs={})
    assert found.tree == ran.tree
    assert found.path == ran.path
    assert why.startswith("unchanged since")
