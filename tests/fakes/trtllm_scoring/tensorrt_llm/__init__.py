"""A stand-in for TensorRT-LLM's LLM API that returns context logits, as version 1.2 does.

The logits are those of the checkpoint itself in float32, by transformers; with the word ``toy`` in
``FAKE_TRTLLM`` those of a table, which takes a moment. Like the real one it refuses arguments that
it does not know, leaves out logits of what it has seen before where blocks are reused, and prints.
The other words of ``FAKE_TRTLLM`` are ways to go wrong.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

__version__ = "1.2.1+standin"
BLOCK = 32
KNOWN = {
    "model", "tokenizer", "tensor_parallel_size", "pipeline_parallel_size", "max_batch_size",
    "max_num_tokens", "max_seq_len", "max_beam_width", "dtype", "trust_remote_code",
    "enable_chunked_prefill", "kv_cache_config", "cuda_graph_config",
}  # fmt: skip


def faults():
    return os.environ.get("FAKE_TRTLLM", "").split()


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that scoring sets."""

    max_tokens: int = 32
    return_context_logits: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    ignore_eos: bool = False


@dataclass
class RequestOutput:
    """What a request gives."""

    prompt_token_ids: list
    context_logits: torch.Tensor | None


class LLM:
    """The PyTorch backend: refuses what the real one refuses, then computes."""

    chunks_whole_rows = True

    def __init__(self, **arguments):
        print("[TRT-LLM] [I] Starting", flush=True)  # noqa: T201 - as the real one does
        unknown = sorted(arguments.keys() - KNOWN)
        if unknown:
            raise ValueError(f"{unknown[0]}: Extra inputs are not permitted")
        if "out-of-memory" in faults():
            raise RuntimeError("CUDA out of memory\nand a long story")
        self.arguments, self.seen = arguments, []
        self.forward = _toy(self.folder) if "toy" in faults() else _real(self.folder)

    @property
    def folder(self):
        return Path(self.arguments["model"])

    def generate(self, inputs, sampling_params, use_tqdm=True):  # noqa: FBT002
        if "crash" in faults():
            os._exit(9)
        return [self._one(one["prompt_token_ids"], sampling_params) for one in inputs]

    def _one(self, tokens, params):
        most = self.arguments.get("max_num_tokens")
        if most and not self.arguments.get("enable_chunked_prefill", True) and len(tokens) > most:
            raise ValueError(f"prompt length ({len(tokens)}) should not exceed ({most})")
        logits = self.forward(tokens)[self._reused(tokens) :]
        if "cut" in faults():
            logits = logits[:-1]
        if "nan" in faults():
            logits[0, 0] = torch.nan
        if "narrow" in faults():
            logits = logits[:, :100]
        if "padded" in faults():
            logits = torch.cat([logits, logits.new_full((len(logits), 7), 40.0)], -1)
        read = [*tokens[:-1], 5] if "swap" in faults() else list(tokens)
        whole = params.return_context_logits and "mute" not in faults()
        return RequestOutput(read, logits if whole else None)

    def _reused(self, tokens):
        """How many tokens have their keys and values already, in whole blocks."""
        if not self.arguments["kv_cache_config"].get("enable_block_reuse", True):
            return 0
        best = max((_common(tokens, other) for other in self.seen), default=0)
        self.seen.append(tokens)
        return best // BLOCK * BLOCK

    def shutdown(self):
        (Path(os.environ["FAKE_TRTLLM_OUT"]) / "arguments.json").write_text(
            json.dumps(self.arguments)
        )


def _common(one, other):
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _toy(folder):
    size = 4096
    table = torch.randn(size, 16, generator=torch.Generator().manual_seed(0))
    return lambda tokens: 3 * table[torch.tensor(tokens)] @ table.T


def _real(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def forward(tokens):
        with torch.inference_mode():
            return model(torch.tensor([list(tokens)])).logits[0].clone()

    return forward
