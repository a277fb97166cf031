"""Recipes are strict at the edge, and every shipped one says what it is."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from builders import recipe
from builders.errors import UsageError
from builders.formats import Format
from builders.parse import Table
from builders.recipe import Recipe
from builders.tiers import tier


def parse(**keys):
    return Recipe.parse(Table(keys, place="recipe.toml"))


def test_the_scheme_label_is_derived():
    made = parse(name="x", summary="s", backend="b", preset="p", weights="fp8", activations="fp8")
    assert made.scheme == "W8A8"
    assert recipe.shipped()["fp8"].scheme == "W8A8KV8"
    assert recipe.shipped()["int4_rtn"].scheme == "W4A16"


def test_every_shipped_recipe_is_named_like_its_file_and_keeps_the_head():
    recipes = recipe.shipped()
    assert {"fp8", "int8_smoothquant", "int4_rtn"} <= recipes.keys()
    for name, shipped in recipes.items():
        assert shipped.name == name
        assert shipped.summary.endswith(".")
        assert "*lm_head*" in shipped.keep


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_recipe_says_what_accuracy_to_expect_and_who_says_so(name):
    shipped = recipe.shipped()[name]
    assert "on the demo's 4M" in shipped.expects
    assert re.search(
        r"measured on the demo \((tests/bench/recipes\.py|docs/quantize\.md)\)$", shipped.source
    )


def test_what_recipes_expect_on_the_demo_is_what_the_table_says():
    """Those that ModelOpt does not make; the others have a program of their own."""
    table = (Path(__file__).parents[1] / "docs" / "quantize.md").read_text(encoding="utf-8")
    for name, shipped in recipe.shipped().items():
        if shipped.source.endswith("(docs/quantize.md)"):
            (row,) = re.findall(
                rf"^\| `{name}` \|.* \+([\d.]+) % ± [\d.]+ \|$", table, re.MULTILINE
            )
            (said,) = re.findall(r"\+([\d.]+) % on the demo", shipped.expects)
            assert float(said) == round(float(row), len(said.partition(".")[2])), name


def test_a_mixture_has_formats_and_bits_and_no_preset_of_its_own():
    common = {"name": "x", "summary": "s", "backend": "modelopt", "weights": "nvfp4"}
    made = parse(**common, formats=["nvfp4", "fp8"], bits=5.5, activations="fp8")
    assert (made.mixed, made.scheme) == (True, "W5.5A8")
    for wrong in ({"formats": ["nvfp4", "fp8"]}, {"bits": 6.0}, {"formats": ["fp8"], "bits": 8.0}):
        with pytest.raises(UsageError, match="a mixture needs two formats at least, and bits"):
            parse(**common, **wrong)


def test_a_recipe_has_a_preset_or_a_recipe_of_modelopts():
    common = {"name": "x", "summary": "s", "backend": "modelopt", "weights": "nvfp4"}
    assert parse(**common, modelopt="general/ptq/x").referenced
    for wrong in ({}, {"preset": "X", "modelopt": "a/b"}):
        with pytest.raises(UsageError, match="either preset or modelopt"):
            parse(**common, **wrong)


def test_only_what_has_static_scales_needs_texts():
    needs = {name for name, one in recipe.shipped().items() if one.needs_texts}
    assert {"fp8", "nvfp4", "int4_awq", "mixed"} <= needs
    assert not needs & {"mxfp8", "fp8_per_token", "int4_rtn", "w4a16_nvfp4"}
    assert not replace(recipe.shipped()["int4_rtn"], kv_cache=Format.FP8_E5M2).needs_texts
    assert replace(recipe.shipped()["int4_rtn"], kv_cache=Format.FP8).needs_texts


def test_a_recipe_of_ones_own_is_read_from_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nsummary = "s"\nbackend = "modelopt"\npreset = "FP8_DEFAULT_CFG"\n'
        'weights = "fp8"\nactivations = "fp8"\nkeep = ["*layers.0.*"]\n'
    )
    made = recipe.find("mine.toml", beside=tmp_path)
    assert made.weights is Format.FP8
    assert made.keep == ("*layers.0.*",)


@pytest.mark.parametrize(
    ("keys", "what", "hint"),
    [
        ({"weights": "fp9"}, "weights = 'fp9'", "did you mean"),
        ({"activation": "fp8"}, "unknown key activation", "did you mean activations?"),
        ({"weights": None}, "weights is missing", ""),
    ],
)
def test_a_mistake_names_the_place_and_the_remedy(keys, what, hint):
    whole = {"name": "x", "summary": "s", "backend": "b", "preset": "p", "weights": "fp8"} | keys
    with pytest.raises(UsageError, match=f"recipe.toml: {what}") as caught:
        parse(**{key: value for key, value in whole.items() if value is not None})
    assert hint in caught.value.hint


def test_an_unknown_recipe_is_answered_with_its_neighbour(tmp_path):
    with pytest.raises(UsageError) as caught:
        recipe.find("fp88", beside=tmp_path)
    assert caught.value.hint == "did you mean fp8?"


def test_a_gain_is_native_where_the_activations_format_is_multiplied():
    recipes = recipe.shipped()
    assert recipes["fp8"].native_on(tier("h100"))
    assert not recipes["fp8"].native_on(tier("a100"))
    assert not recipes["int4_rtn"].native_on(tier("a100"))  # widened to BF16 before it multiplies
