"""A rendered repository holds the configuration, two lines of Python and the engine's files."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import render
from builders.bundle import Tree
from builders.errors import ToolError, UsageError
from fakes.triton_repositories import context


@pytest.fixture
def engine(tmp_path):
    root = tmp_path / "engine"
    (root / "weights").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "weights" / "model.safetensors").write_bytes(b"\0" * 64)
    return root


def test_every_file_is_in_its_place(tmp_path, engine):
    render.render("embedded", context(), engine, tmp_path / "out")
    assert [artifact.path for artifact in Tree.of(tmp_path / "out").artifacts] == [
        "demo/1/engine/config.json",
        "demo/1/engine/weights/model.safetensors",
        "demo/1/model.py",
        "demo/config.pbtxt",
    ]


def test_the_texts_are_known_before_anything_is_written(tmp_path, engine):
    texts = render.texts("embedded", context())
    render.render("embedded", context(), engine, tmp_path / "out")
    assert set(texts) == {"demo/config.pbtxt", "demo/1/model.py"}
    assert {path: (tmp_path / "out" / path).read_text() for path in texts} == texts


def test_the_engine_arrives_byte_for_byte_without_a_second_copy_on_disk(tmp_path, engine):
    render.render("embedded", context(), engine, tmp_path / "out")
    placed = tmp_path / "out" / "demo" / "1" / "engine"
    assert Tree.of(placed) == Tree.of(engine)
    assert (placed / "config.json").samefile(engine / "config.json")


def test_where_files_cannot_be_linked_they_are_copied(tmp_path, engine, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    render.render("embedded", context(), engine, tmp_path / "out")
    placed = tmp_path / "out" / "demo" / "1" / "engine"
    assert Tree.of(placed) == Tree.of(engine)
    assert not (placed / "config.json").samefile(engine / "config.json")


def test_equal_contexts_make_equal_bytes(tmp_path, engine):
    for name in ("first", "second"):
        render.render("embedded", context(), engine, tmp_path / name)
    assert Tree.of(tmp_path / "first").digest == Tree.of(tmp_path / "second").digest


@pytest.mark.parametrize("gpu", [False, True])
def test_a_rendered_repository_says_what_was_meant(tmp_path, engine, gpu):
    render.render("embedded", context(gpu=gpu), engine, tmp_path / "out")
    render.check(tmp_path / "out", "embedded", context(gpu=gpu))


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", fullmatch=True).filter(
    lambda name: ".." not in name
)
NUMBERS = st.integers(1, 2**31 - 1)


@settings(max_examples=60)
@given(
    st.builds(
        context,
        name=NAMES,
        context=NUMBERS,
        concurrency=NUMBERS,
        max_tokens=NUMBERS,
        gpu=st.booleans(),
        enginesmith=st.text().map(lambda text: text.replace("${", "$")),
    )
)
def test_no_value_escapes_its_place(tmp_path_factory, chosen):
    root = tmp_path_factory.mktemp("repository")
    (root / "engine").mkdir()
    render.render("embedded", chosen, root / "engine", root / "out")
    render.check(root / "out", "embedded", chosen)
    assert {path.name for path in root.iterdir()} == {"engine", "out"}


def test_a_missing_engine_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such engine"):
        render.render("embedded", context(), tmp_path / "engine", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_engine_with_a_link_out_of_it_is_refused(tmp_path, engine):
    (engine / "secrets").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="symbolic link"):
        render.render("embedded", context(), engine, tmp_path / "out")


def test_an_unknown_variant_is_refused_with_the_nearest(tmp_path, engine):
    with pytest.raises(UsageError, match="embeded") as caught:
        render.render("embeded", context(), engine, tmp_path / "out")
    assert "embedded" in caught.value.hint


def test_an_output_that_is_there_already_is_not_mixed_into(tmp_path, engine):
    render.render("embedded", context(), engine, tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("other")
    with pytest.raises(ToolError, match=r"File exists.*demo"):
        render.render("embedded", context(), other, tmp_path / "out")
    assert (engine / "config.json").read_text() == "{}"
