"""A context takes only values that have a place in a repository."""

from dataclasses import fields
from importlib.metadata import version

import pytest

from builders.errors import UsageError
from builders.render import Context
from fakes.triton_repositories import context


def test_the_installed_version_is_what_renders():
    made = Context(name="demo", context=1, concurrency=1, engine_digest="a1" * 32)
    assert made.enginesmith == version("enginesmith")


@pytest.mark.parametrize("name", ["demo", "a", "7b", "Llama-3.1_8B.fp8", "a" * 128])
def test_a_plain_name_is_taken(name):
    assert context(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a..b", "../up", "a/b", "-a", "_a", "a b", 'a"b', "a\n", "a\0", "ä", "😀",
        "a" * 129,
    ],
)  # fmt: skip
def test_a_name_that_is_no_plain_directory_is_refused(name):
    with pytest.raises(UsageError, match=r"serve\.name") as caught:
        context(name=name)
    assert "letters" in caught.value.hint


@pytest.mark.parametrize("what", ["context", "concurrency", "max_tokens"])
@pytest.mark.parametrize("value", [0, -1, 2**31, True])
def test_a_number_that_int32_cannot_count_is_refused(what, value):
    with pytest.raises(UsageError, match=f"serve.{what}"):
        context(**{what: value})


@pytest.mark.parametrize("digest", ["", "a1", "A1" * 32, "a1" * 32 + "\n", "sha256:" + "a1" * 32])
def test_a_digest_is_sixty_four_hex_digits(digest):
    with pytest.raises(UsageError, match="SHA-256"):
        context(engine_digest=digest)


def test_a_context_cannot_be_changed_after_it_was_checked():
    with pytest.raises(AttributeError):
        context().name = "other"
    assert {field.name for field in fields(Context)} >= {"name", "context", "concurrency", "gpu"}
