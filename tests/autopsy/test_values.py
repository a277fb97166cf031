"""Values are judged exactly where they are read whole, and weights looked at where they are not."""

import numpy as np
import pytest

from builders.autopsy import inspect
from builders.autopsy.storage import Judge
from builders.autopsy.values import Files
from builders.checkpoint import read_header
from fakes.checkpoints import bfloat16, write_safetensors
from fakes.quantized import LAYER, rules, sound


@pytest.fixture
def look(tmp_path):
    """Write one tensor and judge it."""

    def make(dtype, data, *, judge=Judge.SCALE, whole=True):
        write_safetensors(tmp_path / "m.safetensors", {"x": (dtype, data)})
        with Files(tmp_path) as files:
            return files.look(read_header(tmp_path / "m.safetensors")["x"], judge, whole=whole)

    return make


def floats(dtype, values):
    wide = np.array(values, np.float32)
    return {"F32": wide, "F16": wide.astype(np.float16), "BF16": bfloat16(wide)}[dtype]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0.5, 2.0], ""),
        ([0.5, np.nan], "nan"),
        ([0.5, np.inf], "infinite"),
        ([0.5, -0.25], "negative"),
        ([0.5, 0.0], "zero"),
        ([0.5, -0.0], "zero"),
        ([1e-7, 2.0], ""),
        ([6e4, 0.5], ""),
    ],
)
def test_float_scales_are_judged(look, dtype, values, problem):
    looked = look(dtype, floats(dtype, values))
    assert (looked.problem, looked.ones) == (problem, False)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_float_scales_that_are_all_one_are_seen(look, dtype):
    assert look(dtype, floats(dtype, [1.0, 1.0])).ones
    assert not look(dtype, floats(dtype, [1.0, 1.0078125])).ones


@pytest.mark.parametrize(
    ("byte", "problem"), [(0x7F, "nan"), (0xFF, "nan"), (0xB8, "negative"), (0x80, "negative")]
)
def test_e4m3_scales_are_judged_byte_by_byte(look, byte, problem):
    data = np.full((16, 16), 0x30, np.uint8)
    data[7, 7] = byte
    assert look("F8_E4M3", data).problem == problem


def test_a_few_e4m3_scales_of_zero_are_an_underflow_many_are_not(look):
    data = np.full(1000, 0x30, np.uint8)
    data[3] = 0
    assert look("F8_E4M3", data).problem == "underflow"
    data[:20] = 0
    assert look("F8_E4M3", data).problem == "zero"


def test_powers_of_two_are_judged(look):
    data = np.full(64, 120, np.uint8)
    assert look("U8", data).problem == ""
    data[5] = 0xFF
    assert look("F8_E8M0", data).problem == "nan"
    assert look("U8", np.full(64, 127, np.uint8)).ones


@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
def test_powers_of_two_that_were_never_written_are_told_from_a_block_of_zeros(look, dtype):
    data = np.zeros((64, 4), np.uint8)
    assert look(dtype, data).problem == "least"
    data[5, 2] = 120
    assert look(dtype, data).problem == ""


def test_powers_of_two_are_never_written_only_if_no_chunk_holds_one(look):
    data = np.zeros(9 << 20, np.uint8)
    assert look("U8", data).problem == "least"
    data[-1] = 120
    assert look("U8", data).problem == ""
    assert look("U8", data, whole=False).problem == ""


def test_a_magnitude_may_be_zero_but_not_nan(look):
    assert look("F32", floats("F32", [0.0, 1.0]), judge=Judge.MAGNITUDE).problem == ""
    assert look("F32", floats("F32", [np.nan]), judge=Judge.MAGNITUDE).problem == "nan"
    assert not look("F32", floats("F32", [1.0]), judge=Judge.MAGNITUDE).ones


def test_what_has_no_judge_is_not_read(look):
    assert look("F32", floats("F32", [np.nan]), judge=Judge.NOTHING).read == 0
    assert look("I64", np.zeros(4, np.int64)).read == 0


def test_a_sample_of_a_large_tensor_is_small_and_spread(look):
    data = np.full(1 << 20, 0x30, np.uint8)
    data[-1], data[0] = 0x7F, 0xFF
    assert look("F8_E4M3", data, whole=False).problem == "nan"
    assert look("F8_E4M3", data, whole=False).read == 16 * 4096
    assert look("F8_E4M3", data).read == 1 << 20


def test_scales_beyond_the_limit_are_sampled_and_said_so(tmp_path):
    fake = sound("modelopt nvfp4")
    wide = np.full((4096, 4096), 0x30, np.uint8)
    wide[2000, 2001] = 0x7F  # between two samples
    fake.tensors[f"{LAYER}.weight_scale"] = ("F8_E4M3", wide)
    path = fake.write(tmp_path / "m")
    assert "scale-nan" in rules(inspect(path))
    sampled = inspect(path, limit=1 << 20)
    assert "scale-nan" not in rules(sampled)
    assert sampled.size.scale_bytes_read < sampled.size.scale_bytes
    assert "scale-nan" in rules(inspect(path, limit=None))


def test_weights_that_are_zero_in_part_are_not_called_zero(tmp_path):
    fake = sound("unquantized")
    data = fake.tensors["model.embed_tokens.weight"][1]
    data[:3000] = 0
    assert rules(inspect(fake.write(tmp_path / "m"))) == {}


@pytest.mark.parametrize("wide", [256, 8192])  # read whole, and by pieces
@pytest.mark.parametrize(
    ("part", "told"), [(slice(None, 48), True), (slice(16, None), True), (slice(40, None), False)]
)
def test_a_linear_weight_that_is_zero_in_large_part_warns(tmp_path, wide, part, told):
    fake = sound("unquantized")
    data = bfloat16(np.ones((64, wide)))
    data[part] = 0
    fake.tensors[f"{LAYER}.weight"] = ("BF16", data)
    found = inspect(fake.write(tmp_path / "m"))
    assert rules(found) == ({"weights-zero-in-part": f"{LAYER}.weight"} if told else {})
    assert found.sound


def test_rows_of_zeros_that_lie_apart_are_counted(tmp_path):
    fake = sound("modelopt fp8")
    data = np.zeros((1024, 256), np.uint8)
    data[::16] = 7  # 94 of 100 rows are lost
    fake.tensors[f"{LAYER}.weight"] = ("F8_E4M3", data)
    found = inspect(fake.write(tmp_path / "m"))
    assert rules(found) == {"weights-zero-in-part": f"{LAYER}.weight"}
    assert found.findings[0].what == "is zero in 94% of what was looked at"


def test_weights_that_were_pruned_two_in_four_are_sound(tmp_path):
    fake = sound("unquantized")
    for name, (_, data) in fake.tensors.items():
        if "_proj" in name:
            data[:, ::4] = data[:, 1::4] = 0
    assert rules(inspect(fake.write(tmp_path / "m"))) == {}
