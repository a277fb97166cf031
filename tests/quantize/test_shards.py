"""A run that is killed while its files are handed over goes on, and loses nothing."""

import pytest
import torch

from builders import files
from builders.quantize.octets import planned
from builders.quantize.shards import Shards

TENSORS = {"a.weight": torch.arange(1.0, 5.0), "b.weight": torch.arange(5.0, 9.0)}
PLAN = [planned(name, tensor) for name, tensor in TENSORS.items()]
MOST = TENSORS["a.weight"].nbytes  # each tensor has a file of its own


def fill(scratch, out):
    """Make what is not made yet, hand it over, and say what had to be made."""
    made = []
    with Shards(scratch, PLAN, most=MOST) as shards:
        for name, tensor in TENSORS.items():
            if not shards.is_done(name):
                shards.put(name, {name: tensor})
                made.append(name)
        shards.finish(out)
    return made


def written(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "expected").mkdir()
    fill(tmp_path / "undisturbed", tmp_path / "expected")
    return written(tmp_path / "expected")


def test_killed_between_two_files_it_hands_all_of_them_over_again(tmp_path, monkeypatch, expected):
    scratch, first, second = (tmp_path / name for name in ("scratch", "first", "second"))
    first.mkdir()
    second.mkdir()
    place = files.place

    def killed(file, target, *, owned):
        if "00002" in target.name:
            raise KeyboardInterrupt
        place(file, target, owned=owned)

    with monkeypatch.context() as patch:
        patch.setattr(files, "place", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(scratch, first)
    assert fill(scratch, second) == []
    assert written(second) == expected
    assert not any(scratch.iterdir())


def test_a_file_that_is_gone_or_cut_off_is_made_again(tmp_path, monkeypatch, expected):
    def killed(*_, **__):
        raise KeyboardInterrupt

    for spoil in (lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-1])):
        scratch, out = (tmp_path / f"{name}-{id(spoil)}" for name in ("scratch", "out"))
        out.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(files, "place", killed)
            with pytest.raises(KeyboardInterrupt):
                fill(scratch, out)
        spoil(scratch / "model-00001-of-00002.safetensors")
        assert fill(scratch, out) == list(TENSORS)
        assert written(out) == expected
