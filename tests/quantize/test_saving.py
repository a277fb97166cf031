"""Files are written by threads, with the bytes of safetensors itself."""

import errno
import os
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.quantize import placing, saving, staging


def tensors():
    random = torch.Generator().manual_seed(3)
    wide = torch.randn(65, 48, generator=random)
    return {
        "b.float32": wide, "a.float32": wide[:3].clone(), "float8": wide.to(torch.float8_e4m3fn),
        "bfloat16": wide.bfloat16(), "int8": wide.to(torch.int8), "a": wide > 0,
        "exponents": torch.arange(8, dtype=torch.uint8), "größe": wide.amax(),
        "nothing": torch.empty(0, 4), "int64": torch.arange(5),
    }  # fmt: skip


def test_the_bytes_are_the_librarys(tmp_path):
    saving.save_file(tensors(), tmp_path / "ours", metadata={"format": "pt"})
    save_file(tensors(), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_lies_otherwise_in_memory_is_written_in_order(tmp_path):
    turned = tensors()["b.float32"].T
    saving.save_file({"turned": turned}, tmp_path / "file")
    assert torch.equal(load_file(tmp_path / "file")["turned"], turned)


def test_a_longer_file_in_its_place_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    saving.save_file({"one": torch.ones(2)}, tmp_path / "file")
    assert load_file(tmp_path / "file")["one"].tolist() == [1, 1]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    calls = []

    def full(opened, bits, offset):
        calls.append(offset)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        placing.write(opened, bits, offset)

    monkeypatch.setattr(staging, "write", full)
    with pytest.raises(OSError, match="No space left"):
        saving.save_file(tensors(), tmp_path / "file")


def test_a_library_saves_by_it_for_a_while(tmp_path):
    library = types.SimpleNamespace(save=save_file)
    with saving.taken_over(library, "save"):
        assert library.save is saving.save_file
    assert library.save is save_file
