"""The room's door: backends by name, and what is missing said in one line."""

import sys

import pytest

from builders.errors import ToolError, UsageError
from builders.progress import silent
from builders.quantize import BACKENDS, load, quantize
from builders.recipe import Calibration, shipped


def test_an_unknown_backend_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="unknown quantizer 'modelop'") as caught:
        load("modelop")
    assert caught.value.hint == "did you mean modelopt?"


def test_a_library_that_is_not_installed_is_said_with_the_line_that_mends_it(monkeypatch):
    monkeypatch.delitem(sys.modules, BACKENDS["modelopt"], raising=False)
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    with pytest.raises(ToolError, match="modelopt cannot be loaded") as caught:
        load("modelopt")
    assert "pip install" in caught.value.hint


def test_a_calibrated_recipe_without_texts_is_refused_before_the_backend_loads(source, tmp_path):
    with pytest.raises(UsageError, match=r"quantize\.calibration\.files names none"):
        quantize(source, shipped()["fp8"], Calibration(), tmp_path, silent)
