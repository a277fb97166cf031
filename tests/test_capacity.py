"""The memory plan gives the known numbers of well-known models, and says when they do not fit.

A rounded table in wide use puts the KV cache of Llama 3 at 4 GB (8B, 8K tokens), 40 GB (70B, 32K)
and 160 GB (70B, 128K). Each is four times what the architecture says: grouped-query attention keeps
8 key/value heads, not 32, so the 16-bit cache is 1, 10 and 40 GiB.
"""

import json

import pytest

from builders.capacity import Capacity, layers
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from builders.recipe import Recipe, shipped
from builders.tiers import GIB, TIERS
from fakes import headers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    known = {"8b": headers.LLAMA3_8B, "70b": headers.LLAMA3_70B, "qwen": headers.QWEN3_32B}
    return {
        name: Checkpoint.open(headers.model(root / name, config)) for name, config in known.items()
    }


def recipe(kv_cache="bf16", weights="bf16"):
    return Recipe(
        name="test", summary="A test.", backend="modelopt", preset="test", weights=Format(weights),
        activations=Format(weights), kv_cache=Format(kv_cache),
    )  # fmt: skip


def capacity(model, made=None, *, tier="h100", context=8192, concurrency=1, **more):
    return Capacity.of(model, made or recipe(), TIERS[tier], context, concurrency, **more)


@pytest.mark.parametrize(
    ("model", "context", "gib"),
    [
        ("8b", 8192, 1), ("8b", 32768, 4), ("8b", 131072, 16),
        ("70b", 8192, 2.5), ("70b", 32768, 10), ("70b", 131072, 40),
    ],
)  # fmt: skip
def test_the_kv_cache_of_llama_3_follows_its_architecture(models, model, context, gib):
    assert capacity(models[model], context=context).kv_bytes == gib * GIB
    assert capacity(models[model], recipe("fp8"), context=context).kv_bytes == gib * GIB / 2


@pytest.mark.parametrize(
    ("cache", "size"), [("bf16", 131072), ("fp8", 65536), ("int8", 65536), ("nvfp4", 36864)]
)
def test_a_token_takes_these_bytes_in_each_cache_format(models, cache, size):
    # 2 × 32 layers × 8 heads × 128 wide; NVFP4 keeps a byte of scale for every 16 values
    assert capacity(models["8b"], recipe(cache)).kv_bytes_per_token == size


def test_a_sequence_takes_whole_blocks_of_the_paged_cache(models):
    for context, tokens in [(1, 32), (32, 32), (33, 64), (8192, 8192)]:
        assert capacity(models["8b"], context=context).kv_bytes_per_sequence == tokens * 131072


def test_the_cache_grows_with_the_requests(models):
    one, many = (capacity(models["8b"], concurrency=n) for n in (1, 64))
    assert many.kv_bytes == 64 * one.kv_bytes


@pytest.mark.parametrize(("tp", "share"), [(1, 1), (2, 1 / 2), (8, 1 / 8), (16, 1 / 8)])
def test_tensor_parallelism_shares_kv_heads_and_stops_at_one_a_gpu(models, tp, share):
    whole = capacity(models["8b"]).kv_bytes_per_sequence
    assert capacity(models["8b"], tp=tp).kv_bytes_per_sequence == whole * share


def test_pipeline_parallelism_shares_layers_and_the_fullest_gpu_counts(models):
    whole = capacity(models["8b"]).kv_bytes_per_sequence
    assert capacity(models["8b"], pp=4).kv_bytes_per_sequence == whole / 4
    assert capacity(models["8b"], pp=3).kv_bytes_per_sequence == whole * 11 / 32


def windows(tmp_path, **changes):
    path = headers.model(tmp_path / "model", headers.LLAMA3_8B, **changes)
    return [window for _, window in layers(Checkpoint.open(path))]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0] * 6),
        ({"sliding_window": None}, [0] * 6),
        ({"sliding_window": 64}, [64] * 6),  # Mistral 7B v0.1
        ({"sliding_window": 64, "use_sliding_window": False}, [0] * 6),  # Qwen2
        (
            {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 4},
            [0, 0, 0, 0, 64, 64],
        ),
        ({"sliding_window": 64, "model_type": "gemma2"}, [64, 0] * 3),
        ({"sliding_window": 64, "sliding_window_pattern": 3}, [64, 64, 0] * 2),
        (
            {
                "sliding_window": 64,
                "layer_types": ["sliding_attention", "full_attention", "linear_attention"] * 2,
            },
            [64, 0] * 2,
        ),
        ({"attention_chunk_size": 32, "layer_types": ["chunked_attention"] * 6}, [32] * 6),
    ],
)
def test_windows_are_read_from_every_way_in_which_configurations_write_them(
    tmp_path, changes, expected
):
    assert windows(tmp_path, num_hidden_layers=6, **changes) == expected


def test_a_window_bounds_what_a_long_context_takes(tmp_path):
    path = headers.model(tmp_path / "mistral", headers.LLAMA3_8B, sliding_window=4096)
    mistral = Checkpoint.open(path)
    short, long = (capacity(mistral, context=n).kv_bytes for n in (4096, 131072))
    assert short == long == GIB / 2


def test_a_latent_cache_is_one_vector_a_layer_and_whole_on_every_gpu(tmp_path):
    # DeepSeek-V3: 61 layers × (512 + 64) values × 2 bytes
    config = headers.LLAMA3_8B | {
        "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    }  # fmt: skip
    model = Checkpoint.open(headers.model(tmp_path / "mla", config))
    assert capacity(model).kv_bytes_per_token == 61 * 576 * 2 == 70272
    assert capacity(model, tp=8).kv_bytes == capacity(model).kv_bytes


def test_the_total_agrees_with_another_planner_on_qwen3_32b_in_fp8(models):
    """aiconfigurator 0.12 said 38.96 GB for 8 requests of 2,048 + 128 tokens on one H200."""
    plan = capacity(models["qwen"], shipped()["fp8"], tier="h200", context=2176, concurrency=8)
    total = plan.gpu_weight_bytes + plan.kv_bytes + plan.activation_bytes + plan.workspace_bytes
    assert total / 1e9 == pytest.approx(38.96, rel=0.03)


@pytest.mark.parametrize(
    ("made", "tier", "tp"),
    [
        (recipe(), "h100", 4),
        (shipped()["fp8"], "h100", 2),
        (shipped()["nvfp4"], "b200", 1),
        (shipped()["fp8"], "h200", 1),
        (shipped()["int4_awq"], "h100", 2),
        (shipped()["int4_awq"], "l40s", 4),
        (recipe(), "t4", None),
    ],
)
def test_llama_3_70b_is_given_the_fewest_gpus_that_hold_it(models, made, tier, tp):
    plan = capacity(models["70b"], made, tier=tier, concurrency=16)
    assert plan.suggested_tp == tp
    assert plan.fits is (tp == 1)
    if tp:
        assert capacity(models["70b"], made, tier=tier, concurrency=16, tp=tp).fits


def test_what_is_promised_is_what_fits_and_not_one_more(models):
    plan = capacity(models["8b"], shipped()["fp8"], context=32768)
    most = plan.max_concurrency
    assert most > 20
    assert capacity(models["8b"], shipped()["fp8"], context=32768, concurrency=most - 1).fits
    assert not capacity(models["8b"], shipped()["fp8"], context=32768, concurrency=most * 2).fits


def test_a_smaller_fraction_serves_fewer(models):
    half, most = (capacity(models["8b"], kv_fraction=f).max_concurrency for f in (0.45, 0.9))
    assert half == most // 2


def test_the_parts_never_exceed_what_the_gpu_has(models):
    plan = capacity(models["8b"], concurrency=40)
    free = plan.usable_bytes - plan.gpu_weight_bytes - plan.activation_bytes - plan.workspace_bytes
    assert plan.kv_budget_bytes == int(0.9 * free)
    assert plan.max_concurrency == plan.kv_budget_bytes // plan.kv_bytes_per_sequence


def test_weights_that_do_not_fit_are_refused_with_the_tp_that_would(models):
    (refusal,) = capacity(models["70b"], recipe(), concurrency=2).refusals()
    assert refusal.reason.startswith("test weights take 131.4 GiB of each GPU and leave no room")
    assert "1 × h100 (79.2 GiB usable each)" in refusal.reason
    assert refusal.hint.startswith("target.tp = 2, or ")
    assert 'quantize.kv_cache = "fp8"' in refusal.hint


def test_a_cache_that_does_not_fit_is_refused_with_the_requests_that_would(models):
    (refusal,) = capacity(models["8b"], shipped()["fp8"], context=131072, concurrency=64).refusals()
    assert "64 requests of 131072 tokens need 512.0 GiB of KV cache" in refusal.reason
    assert "serve.concurrency of at most 7" in refusal.hint
    assert "kv_cache" not in refusal.hint


def test_a_tp_that_divides_nothing_is_refused(models):
    refusals = capacity(models["8b"], tp=3).refusals()
    assert refusals[0].reason == "tp 3 does not divide the 32 attention heads"
    assert capacity(models["8b"], tp=4).refusals() == ()


def test_a_cpu_has_no_limit_that_could_be_planned(models):
    plan = capacity(models["70b"], tier="cpu", concurrency=1000)
    assert plan.fits is plan.max_concurrency is plan.suggested_tp is None
    assert plan.refusals() == ()
    assert plan.usable_bytes == 0


@pytest.mark.parametrize("wrong", [{"context": 0}, {"concurrency": 0}, {"tp": 0}, {"pp": -1}])
def test_nothing_less_than_one_is_asked(models, wrong):
    with pytest.raises(UsageError, match="at least 1"):
        capacity(models["8b"], **wrong)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads"])
def test_a_model_without_layers_or_heads_is_refused_and_the_file_named(tmp_path, key):
    path = headers.model(tmp_path / "model", headers.LLAMA3_8B | {"num_hidden_layers": 1})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {key: 0}))
    with pytest.raises(UsageError, match=rf"config\.json: {key} is 0, but a model has"):
        capacity(Checkpoint.open(path)).refusals()


def test_a_missing_width_names_the_file_and_the_key(tmp_path):
    path = headers.model(tmp_path / "model", headers.LLAMA3_8B | {"num_hidden_layers": 1})
    config = json.loads((path / "config.json").read_text())
    del config["hidden_size"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config\.json: hidden_size is missing"):
        _ = capacity(Checkpoint.open(path)).activation_bytes


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_the_fraction_lies_between_none_and_all(models, fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        capacity(models["8b"], kv_fraction=fraction)


def test_the_plan_is_one_json_object_that_names_its_estimates(models):
    plan = capacity(models["8b"], shipped()["fp8"], concurrency=8)
    described = json.loads(json.dumps(plan.as_json()))
    assert described["fits"] is True
    assert described["exact"] is True
    assert described["kv_bytes"] == 8 * described["kv_bytes_per_sequence"]
    assert set(described["estimates"]) < described.keys()


def test_a_step_s_activations_grow_with_tokens_up_to_the_step_and_shrink_with_tp(models):
    few, many, more = (
        capacity(models["8b"], context=1024, concurrency=n).activation_bytes for n in (1, 8, 16)
    )
    assert few < many
    assert more - many == 2 * 4 * 8 * 128256  # beyond 8,192 tokens only the logits grow
    assert capacity(models["8b"], tp=2).activation_bytes < capacity(models["8b"]).activation_bytes
