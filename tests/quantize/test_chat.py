"""A chat template is a stranger's program: rendered in a child, with limits of time and memory."""

import time

import pytest

from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.quantize.calibration import Document
from builders.quantize.chat import render
from fakes.checkpoints import tiny_llama

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Checkpoint.open(tiny_llama(tmp_path_factory.mktemp("chat") / "m", layers=1))


def said(*contents):
    return [
        Document(place=f"calib.jsonl:{number}", messages=(("user", content),))
        for number, content in enumerate(contents, start=1)
    ]


@pytest.mark.slow
def test_conversations_come_back_in_order(model):
    (model.path / "chat_template.jinja").write_text(TEMPLATE)
    assert render(model, said("Hi", "Grüße 🙂")) == ["<user>Hi\n", "<user>Grüße 🙂\n"]
    assert render(model, []) == []


@pytest.mark.slow
def test_a_refusal_names_the_line(model):
    (model.path / "chat_template.jinja").write_text(
        "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}ok"
    )
    with pytest.raises(UsageError, match=r"calib\.jsonl:2: the chat template refuses .*not that"):
        render(model, said("yes", "no"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "5 sec"),
        ("{{ ('a' * 5000000000) | length }}", "memory"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|refuses"),
    ],
)
def test_a_template_that_would_take_all_is_stopped_in_seconds(model, template, why):
    (model.path / "chat_template.jinja").write_text(template)
    before = time.monotonic()
    with pytest.raises(UsageError, match=rf"calib\.jsonl:1: the chat template .*({why})"):
        render(model, said("Hi"))
    assert time.monotonic() - before < 60
