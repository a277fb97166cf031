"""The room's door: what can be refused without a backend is refused before it is loaded."""

import pytest

from builders.errors import UsageError
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, shipped


def test_a_calibrated_recipe_without_texts_is_refused_before_the_backend_loads(source, tmp_path):
    with pytest.raises(UsageError, match=r"quantize\.calibration\.files names none"):
        quantize(source, shipped()["fp8"], Calibration(), tmp_path, silent)
