"""The tier table says what Tensor Cores multiply, and looks names up kindly."""

import pytest

from builders.errors import UsageError
from builders.formats import Format
from builders.tiers import TIERS, tier


@pytest.mark.parametrize(
    ("name", "native", "foreign"),
    [
        ("t4", Format.INT8, Format.BF16),
        ("a100", Format.INT8, Format.FP8),
        ("l40s", Format.FP8, Format.NVFP4),
        ("h100", Format.FP8, Format.MXFP8),
        ("h200", Format.FP8, Format.INT4),
        ("b200", Format.NVFP4, Format.INT4),
    ],
)
def test_each_architecture_multiplies_its_own_formats(name, native, foreign):
    assert tier(name).is_native(native)
    assert not tier(name).is_native(foreign)


def test_the_cpu_is_a_tier_but_no_gpu():
    assert [name for name, entry in TIERS.items() if not entry.gpu] == ["cpu"]


def test_a_mistyped_tier_is_answered_with_its_neighbour():
    with pytest.raises(UsageError) as caught:
        tier("h10")
    assert caught.value.hint.startswith("did you mean h100")
