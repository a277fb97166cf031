"""What each quantizer beside ModelOpt takes is known beforehand, and what it makes to the byte."""

import subprocess
import sys
from dataclasses import replace

import pytest

from builders import autopsy, ledger
from builders.checkpoint import Checkpoint
from builders.errors import PlanError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize, worker
from builders.quantize.backends import BACKENDS
from builders.quantize.shapes import shape_refusals
from builders.quantize.techniques import TECHNIQUES
from builders.recipe import Calibration, shipped
from builders.weights import Weights
from fakes.checkpoints import tiny_llama, tiny_mixtral, tiny_qwen3_moe
from fakes.environments import ready
from fakes.gptqmodel_worker import __file__ as STAND_IN

RECIPES = [name for name, recipe in shipped().items() if recipe.backend != "modelopt"]


def test_every_backend_beside_modelopt_has_its_techniques_and_every_recipe_its_own():
    assert TECHNIQUES.keys() | {"modelopt"} == BACKENDS.keys()
    for name in RECIPES:
        recipe = shipped()[name]
        technique = TECHNIQUES[recipe.backend][recipe.preset]
        assert (technique.weights, technique.activations) == (recipe.weights, recipe.activations)
        assert ledger.algorithm(recipe).name == technique.algorithm


@pytest.mark.parametrize("name", RECIPES)
def test_the_export_is_recognized_and_as_large_as_the_ledger_says(
    source, calibration, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(worker, "script", lambda _name: STAND_IN)
    ready(tmp_path, monkeypatch)
    recipe, out = shipped()[name], tmp_path / "out"
    out.mkdir()
    quantize(source, recipe, calibration, out, silent)
    made = Checkpoint.open(out)
    known, weights = autopsy.recognize(made), Weights(source, recipe)
    assert known.algorithm == ledger.algorithm(recipe).name
    assert known.recipe.scheme == recipe.scheme
    if weights.exact:
        assert made.weight_bytes == weights.exported_bytes
    else:
        assert made.weight_bytes == pytest.approx(weights.exported_bytes, rel=2e-3)


def test_a_preset_that_is_none_is_answered_with_its_neighbour(source):
    (refusal,) = shape_refusals(source, replace(shipped()["gptq_int4"], preset="gptq_desc"))
    assert "gptq preset 'gptq_desc' is unknown" in refusal.reason
    assert "gptq" in refusal.hint


def test_formats_that_the_preset_does_not_make_are_refused(source):
    (refusal,) = shape_refusals(source, replace(shipped()["bnb_nf4"], weights=Format.INT4))
    assert "asks bitsandbytes for int4 weights under bf16 activations" in refusal.reason
    assert "nf4_double makes nf4" in refusal.reason


@pytest.mark.parametrize(
    ("cache", "refused"), [(Format.FP8, True), (Format.INT8, True), (Format.FP8_E5M2, False)]
)
def test_only_a_kv_cache_that_needs_no_scales_goes_with_them(source, cache, refused):
    for name in RECIPES:
        found = shape_refusals(source, replace(shipped()[name], kv_cache=cache))
        assert bool(found) is refused


@pytest.mark.parametrize(
    ("family", "taken"),
    [(tiny_mixtral, set()), (tiny_qwen3_moe, {"gptq_int4", "awq_int4"})],
)
def test_mixtures_are_taken_where_readers_find_their_experts(tmp_path, family, taken):
    source = Checkpoint.open(family(tmp_path / "m"))
    assert {name for name in RECIPES if not shape_refusals(source, shipped()[name])} == taken


def test_awq_needs_out_features_in_64s(tmp_path):
    path = tiny_llama(tmp_path / "m", heads=4, kv_heads=1, layers=1)
    (refusal,) = shape_refusals(Checkpoint.open(path), shipped()["awq_int4"])
    assert "k_proj has 32 out features, which awq_int4 cannot cut into blocks of 64" in (
        refusal.reason
    )


def test_refusing_imports_no_library(source):
    code = (
        "import sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        "from builders.checkpoint import Checkpoint\n"
        "from builders.recipe import Calibration, shipped\n"
        "from builders import quantize\nfrom builders.errors import PlanError\n"
        f"source = Checkpoint.open(Path({str(source.path)!r}))\n"
        "recipe = replace(shipped()['bnb_nf4'], preset='nf5')\n"
        "try: quantize.quantize(source, recipe, Calibration(), Path('x'), print)\n"
        "except PlanError: pass\n"
        "print(*(m for m in ('torch', 'numpy', 'transformers') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_plan_error_carries_every_reason(source):
    recipe = replace(shipped()["bnb_nf4"], kv_cache=Format.FP8, weights=Format.INT4)
    with pytest.raises(PlanError) as caught:
        quantize(source, recipe, Calibration(), source.path, silent)
    assert len(caught.value.refusals) == 2
