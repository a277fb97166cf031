"""A folder's tokenizer cuts here as it does in transformers; what is missing is named."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from builders.errors import UsageError
from builders.texts import Texts
from fakes.checkpoints import DEMO

TEXTS = ("", "a", "Return a list.\n\n", "naïve → 日本語", "<|endoftext|>x")


@pytest.fixture
def folder(tmp_path):
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        shutil.copyfile(DEMO / name, tmp_path / name)
    return tmp_path


def edit(file, **values):
    said = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))


FIRST = "<|endoftext|>"
A, B = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
LEADING = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": FIRST, "type_id": 0}}, A],
    "pair": [A, B],
    "special_tokens": {FIRST: {"id": FIRST, "ids": [0], "tokens": [FIRST]}},
}


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("says", [None, True, False])
def test_texts_are_cut_as_transformers_cuts_them(folder, leads, says):
    edit(folder / "tokenizer_config.json", add_bos_token=says)
    if leads:
        edit(folder / "tokenizer.json", post_processor=LEADING)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Texts.read(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode("") == ([0] if leads else [])


def test_what_a_folder_says_is_found(folder):
    found = Texts.read(folder)
    assert (found.vocabulary, found.context, found.prefix) == (4096, 2048, 0)
    edit(folder / "config.json", vocab_size=None, text_config={"vocab_size": 5000})
    assert Texts.read(folder).vocabulary == 5000


def test_without_a_beginning_the_least_end_stands_before_a_text(folder):
    edit(folder / "tokenizer_config.json", bos_token=None)
    edit(folder / "generation_config.json", eos_token_id=[9, 7])
    assert Texts.read(folder).prefix == 7


def test_a_tokenizer_of_transformers_alone_is_read_too(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="the tokenizer cannot be loaded"):
        Texts.read(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(folder, spoil, said):
    spoil(folder)
    with pytest.raises(UsageError, match=said):
        Texts.read(folder)


def test_a_model_without_first_and_last_token_is_refused(folder):
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None)
    edit(folder / "config.json", eos_token_id=None, bos_token_id=None)
    (folder / "generation_config.json").unlink()
    with pytest.raises(UsageError, match="no file names a token"):
        Texts.read(folder)
