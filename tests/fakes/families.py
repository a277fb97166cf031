"""Tiny random models of every family, made by transformers, and what ModelOpt makes of them."""

import contextlib
import copy
import io
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fakes.checkpoints import DEMO, TOKENIZER_FILES

COMMON = {
    "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


def save(path: Path, model_type: str, **config) -> Path:
    """Let transformers make and save a random model of a family."""
    torch.manual_seed(0)
    made = AutoConfig.for_model(model_type, **(COMMON | config))
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.08)  # so large that heads look at something
    with silence():
        model.save_pretrained(path)
    copy_tokenizer(path)
    return path


def copy_tokenizer(path: Path) -> None:
    """Give a directory the demo model's tokenizer."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(DEMO / name, path / name)


def opened(path: Path) -> torch.nn.Module:
    """Let transformers read a checkpoint, in float32."""
    with silence():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


@dataclass(kw_only=True)
class Simulated:
    """What a model computed before and after ModelOpt quantized it, and where its export lies.

    ``layers`` has what went into the watched modules and what came out of them.
    """

    export: Path
    plain: torch.Tensor
    logits: torch.Tensor
    layers: list = field(default_factory=list)


def simulate(source: Path, out: Path, tokens, preset: str, kv: str = "", *, watch: str = "-"):
    """Quantize a checkpoint with ModelOpt in float32, compute, and export it into ``out``.

    Weights are moved off the bfloat16 grid first, on which many lie between two codes. What goes
    into a LayerNorm stays as it is: ModelOpt would round that too, and tell nobody in the export.
    """
    with silence(), torch.inference_mode():
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint

        from builders.quantize import emulation

        config = copy.deepcopy(getattr(mtq, preset))
        if kv:
            kept = getattr(mtq, kv)["quant_cfg"]
            config = mtq.update_quant_cfg_with_kv_cache_quant(config, kept)
        config["quant_cfg"].append({"quantizer_name": "*norm*", "enable": False})
        config = emulation.where_needed(config, torch.device("cpu"))
        model = opened(source)
        random = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            weight.mul_(1 + 1e-3 * torch.randn(weight.shape, generator=random))
        plain = model(tokens, use_cache=False).logits
        with emulation.available():
            mtq.quantize(model, config, lambda m: m(tokens, use_cache=False))
            with watched(model, watch) as layers:
                logits = model(tokens, use_cache=False).logits
        export_hf_checkpoint(model, export_dir=out)
    copy_tokenizer(out)
    return Simulated(export=out, plain=plain, logits=logits, layers=layers)


@contextlib.contextmanager
def watched(model, suffix):
    """Note what goes into modules whose name ends so, and what comes out."""
    layers = []
    hooks = [
        part.register_forward_hook(lambda *call, name=name: layers.append((name, *call[1:])))
        for name, part in model.named_modules()
        if name.endswith(suffix)
    ]
    yield layers
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def silence():
    """Keep what tools print and warn of to themselves."""
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def divergence(expected, found) -> float:
    """Return the mean Kullback-Leibler divergence over tokens, in nats."""
    expected, found = expected.log_softmax(-1), found.log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean().item()
