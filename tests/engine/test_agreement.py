"""What we compute from an export is what ModelOpt simulates before it exports.

How close, and why not closer:

* Weights and rounded activations are ModelOpt's to the last code in float32. In bfloat16, up to 7 %
  of FP8 weight codes (1 in 1000 elsewhere) lie one step off the simulation: the exporter divides
  bfloat16 weights by their scale in bfloat16 before it rounds them. Activations in bfloat16 often
  lie exactly between two codes; we multiply by 1/scale, as engines do, ModelOpt by 448/largest,
  and up to 2 % of a layer's inputs fall to the other side.
* Products are exact but for the sum. In bfloat16 they are rounded once or twice on the way out,
  while the simulation rounds codes times scale to bfloat16 before it multiplies.
* Whole models drift apart although each layer agrees: a difference in the last place moves a few
  activations over a rounding boundary, by a whole step (an eighth, in FP8), and the next layer
  takes it from there. Token by token two such models differ about as much as either differs from
  the unquantized one; what gates measure, the mean over tokens, agrees.
"""

import contextlib
import copy
import io
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM

from builders.autopsy import recognize
from builders.autopsy.modelopt import ALGORITHMS
from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings
from builders.engine.embedded.declaration import Declaration
from builders.engine.embedded.loader import load
from builders.engine.embedded.score import forward
from builders.engine.embedded.tensors import Tensors
from builders.engine.embedded.text import Tokenizer
from builders.formats import Format
from builders.numerics import blocks
from builders.numerics.readers import READERS
from fakes.checkpoints import DEMO

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TEXT = (DEMO / "README.md").read_text(encoding="utf-8")
TOKENS = torch.tensor(Tokenizer(DEMO).encode(TEXT)[: 8 * 96]).view(8, 96)
FORMATS = {torch.float32: Format.FP32, torch.bfloat16: Format.BF16}


@dataclass
class Simulated:
    """The demo model as ModelOpt quantized it, what it computed, and where its export lies."""

    export: Path
    dtype: torch.dtype
    kv: str
    layers: dict = field(default_factory=dict)
    quantizers: dict = field(default_factory=dict)
    logits: torch.Tensor | None = None
    plain: torch.Tensor | None = None

    def load(self):
        kept = Format.FP8 if self.kv else Format.BF16
        settings = EngineSettings(context=128, dtype=FORMATS[self.dtype], kv_cache=kept)
        return load(self.export, settings, CPU)


@contextlib.contextmanager
def silence():
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def mtq():
    with silence():
        import modelopt.torch.quantization as mtq
    return mtq


@pytest.fixture(scope="session")
def simulate(mtq, tmp_path_factory):
    """Quantize by a constant of ModelOpt's, compute, export; each combination once."""
    made = {}

    def make(preset, dtype=torch.bfloat16, kv="", *, computes=True):
        key = (preset, dtype, kv)
        if key not in made:
            found = Simulated(tmp_path_factory.mktemp("export"), dtype, kv)
            with silence(), torch.inference_mode():
                model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=dtype)
                spread(model, dtype)
                found.plain = model(TOKENS, use_cache=False).logits.float()
                quantized(mtq, model, preset, kv, computes=computes)
                if computes:
                    watch(model, found)
                export(model, found.export)
            made[key] = found
        return made[key]

    return make


def spread(model, dtype):
    """Move float32 weights off the bfloat16 grid, on which many lie between two codes."""
    if dtype == torch.float32:
        random = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            weight.mul_(1 + 1e-3 * torch.randn(weight.shape, generator=random))


def quantized(mtq, model, preset, kv, *, computes):
    config = copy.deepcopy(getattr(mtq, preset))
    if kv:
        kept = getattr(mtq, kv)["quant_cfg"]
        config = mtq.update_quant_cfg_with_kv_cache_quant(config, kept)
    mtq.quantize(model, config, (lambda m: m(TOKENS, use_cache=False)) if computes else None)


def watch(model, found):
    def keep(name):
        def hook(part, given, _result):
            rounded, weight = part.input_quantizer(given[0]), part.weight_quantizer(part.weight)
            found.layers[name] = (given[0], rounded.float(), weight.float())

        return hook

    parts = dict(model.named_modules())
    hooks = [
        part.register_forward_hook(keep(name))
        for name, part in parts.items()
        if name.endswith("_proj")
    ]
    found.logits = model(TOKENS, use_cache=False).logits.float()
    for hook in hooks:
        hook.remove()
    found.quantizers = {
        name: copy.deepcopy(part)
        for name, part in parts.items()
        if name.endswith(("k_bmm_quantizer", "v_bmm_quantizer"))
    }


def export(model, out):
    from modelopt.torch.export import export_hf_checkpoint

    export_hf_checkpoint(model, export_dir=out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / name, out / name)


def read(path, name):
    """Return a layer's dequantized weight, and how its input is rounded and widened again."""
    checkpoint = Checkpoint.open(path)
    scheme = Declaration.read(checkpoint).scheme(name)
    reader = READERS[scheme.algorithm]
    parts = {part: Tensors(checkpoint, CPU)[f"{name}.{part}"] for part in scheme.parts}
    decoded = reader.decode(parts, scheme.group)
    unit = parts.get("input_scale", torch.tensor(1.0))
    gain = decoded.gain / unit
    weight = decoded.matrix * (gain if gain.ndim == 0 else gain[:, None])
    smooth = parts.get("pre_quant_scale")

    def rounded(values):
        values = values if smooth is None else values * smooth.to(values.dtype)
        if reader.rounding is None:
            return values.float()
        codes, scale = reader.rounding(parts, scheme.group)(values.float())
        return codes * unit * (1 if scale is None else scale)

    return weight, rounded


def differing(found, expected):
    """Return the share of values that are another code, not the same one widened another way."""
    return ((found - expected).abs() > 0.01 * expected.abs() + 1e-7).float().mean().item()


PRESETS = [
    ("FP8_DEFAULT_CFG", ""),
    ("FP8_DEFAULT_CFG", "FP8_KV_CFG"),
    ("FP8_PER_CHANNEL_PER_TOKEN_CFG", ""),
    ("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", ""),
    ("INT8_SMOOTHQUANT_CFG", ""),
    ("INT8_WEIGHT_ONLY_CFG", ""),
    ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", ""),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "kv"), PRESETS)
def test_each_layer_computes_what_modelopt_simulates(simulate, preset, kv, dtype):
    simulated = simulate(preset, dtype, kv)
    module = simulated.load().module
    exact = dtype == torch.float32
    fp8 = preset == "FP8_DEFAULT_CFG"
    assert len(simulated.layers) == 4 * 7
    for name, (given, rounded, weight) in simulated.layers.items():
        our_weight, rounding = read(simulated.export, name)
        our_rounded = rounding(given)
        weights_off = 1e-4 if exact else 0.07 if fp8 else 0.005
        assert differing(our_weight, weight) <= weights_off, name
        assert differing(our_rounded, rounded) <= (1e-4 if exact else 0.02), name
        with torch.inference_mode():
            found = module.get_submodule(name)(given)
        expected = our_rounded.double() @ our_weight.double().T
        off = (found.double() - expected).abs().max() / expected.abs().max()
        assert found.dtype == dtype
        assert off <= (1e-5 if exact else 2.0**-7), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv", ["FP8_KV_CFG", "FP8_AFFINE_KV_CFG"])
def test_keys_and_values_are_rounded_as_modelopt_rounds_them(simulate, kv, dtype):
    simulated = simulate("FP8_DEFAULT_CFG", dtype, kv)
    scales = simulated.load().kv_scales
    random = torch.Generator().manual_seed(5)
    heads = torch.randn(2, 2, 50, 64, generator=random).mul(2).to(dtype)
    assert len(simulated.quantizers) == 2 * 4
    for name, quantizer in simulated.quantizers.items():
        ours = scales[int(name.split(".")[2])]["kv".index(name.rpartition(".")[2][0])]
        with torch.inference_mode():
            found, expected = ours.round(heads).float(), quantizer(heads).float()
        assert differing(found, expected) < (1e-4 if dtype == torch.float32 else 0.02)


def divergence(expected, found):
    """Return the mean Kullback-Leibler divergence over tokens, in nats."""
    expected, found = expected.log_softmax(-1), found.log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean().item()


def loss(logits):
    return cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).item()


def computed(simulated):
    loaded = simulated.load()
    with torch.inference_mode():
        return forward(loaded, TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "kv"), PRESETS)
def test_the_whole_model_is_harmed_as_modelopt_says(simulate, preset, kv, dtype):
    simulated = simulate(preset, dtype, kv)
    found = computed(simulated)
    assert cosine_similarity(found, simulated.logits, dim=-1).mean() > 0.99
    assert abs(loss(found) - loss(simulated.logits)) < 0.03
    theirs, ours = (divergence(simulated.plain, other) for other in (simulated.logits, found))
    assert ours == pytest.approx(theirs, rel=0.25)
    if dtype == torch.float32:
        assert divergence(simulated.logits, found) < theirs / 3


@pytest.mark.parametrize(("preset", "harm"), [("INT4_AWQ_CFG", 0.4), ("W4A8_AWQ_BETA_CFG", 0.4)])
def test_what_the_exporter_changes_still_answers_like_the_model(simulate, preset, harm):
    """AWQ exports have merged scales, folded into norms: the simulation is another model."""
    simulated = simulate(preset)
    found = computed(simulated)
    assert abs(loss(found) - loss(simulated.logits)) < 0.2
    assert divergence(simulated.plain, found) < harm


@pytest.mark.parametrize(
    ("preset", "harm"),
    [
        ("MXFP8_DEFAULT_CFG", 0.05),
        ("NVFP4_DEFAULT_CFG", 0.52),
        ("W4A16_NVFP4_CFG", 0.26),
        ("W4A8_NVFP4_FP8_CFG", 0.32),
        ("MXFP4_DEFAULT_CFG", 0.88),
        ("W4A8_MXFP4_FP8_CFG", 0.42),
    ],
)
def test_what_modelopt_cannot_simulate_here_answers_like_the_model(simulate, preset, harm):
    """Its block formats compute on CUDA only, so input scales come from an FP8 calibration."""
    simulated = simulate(preset, computes=False)
    add_input_scales(simulated.export, simulate("FP8_DEFAULT_CFG").export)
    found = computed(simulated)
    assert 0.001 < divergence(simulated.plain, found) < harm


def add_input_scales(path, calibrated):
    from safetensors.torch import load_file, save_file

    tensors, known = (load_file(at / "model.safetensors") for at in (path, calibrated))
    algorithm = recognize(Checkpoint.open(path)).algorithm
    if "input_scale" not in ALGORITHMS[algorithm].parts:
        return
    smaller = 6 if algorithm == "NVFP4" else 1  # largest / 2688 there, largest / 448 in FP8
    scales = {name: scale / smaller for name, scale in known.items() if "input_scale" in name}
    save_file(tensors | scales, path / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_round_as_modelopts_own_packing(mtq, dtype):
    from modelopt.torch.quantization.qtensor import MXFP4QTensor, MXFP8QTensor, NVFP4QTensor

    random = torch.Generator().manual_seed(2)
    values = torch.randn(64, 256, generator=random).mul(0.05).to(dtype)
    values[3] *= 30
    values[7, :32] = 0
    packed, scales, unit = NVFP4QTensor.quantize(values, 16)
    sizes = {"scale": scales, "double_scale": unit, "block_sizes": {-1: 16}}
    theirs = packed.dequantize(dtype=torch.float32, **sizes)
    ours = blocks.nvfp4_round(values.float(), 16, unit.float()) * unit.float()
    assert torch.allclose(ours, theirs, rtol=1e-6)
    packed, scales = MXFP8QTensor.quantize(values)[:2]
    theirs = packed.dequantize(dtype=torch.float32, scale=scales, block_sizes={-1: 32})
    assert torch.equal(blocks.mx_round(values.float(), 32, 448.0), theirs)
    packed, scales = MXFP4QTensor.quantize(values, 32)[:2]
    theirs = packed.dequantize(dtype=torch.float32, scale=scales, block_sizes={-1: 32})
    ours = blocks.mx_round(values.float(), 32, 6.0)
    # its MXFP4 packing takes ties down, the format takes them to the even code
    assert differing(ours, theirs) < (1e-4 if dtype == torch.float32 else 0.02)
