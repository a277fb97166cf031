"""Load a checkpoint in vLLM, score windows of tokens and answer prompts greedily.

    python tests/gpu/vllm_scores.py CHECKPOINT KV_CACHE TASKS OUT [emulate]

``emulate`` lends the CPU what vLLM has and lists for GPUs only, its own emulation of NVFP4 and
MXFP8, and takes away what it lists and lacks there, activations fused with their rounding to FP8.
TASKS is a JSON object of ``windows``, ``prompts`` (rows of token ids) and ``answer`` (tokens to
make); OUT gets ``logprobs`` and ``answers``, or the ``error`` by which vLLM refused.
"""

import json
import sys
from pathlib import Path

import vllm
from vllm import LLM, SamplingParams


def main(checkpoint: str, kv_cache: str, tasks: str, out: str, emulated: str = "") -> None:
    """Run and write what came of it."""
    if emulated:
        emulate()
    asked = json.loads(Path(tasks).read_text(encoding="utf-8"))
    found: dict[str, object] = {"vllm": vllm.__version__}
    try:
        llm = LLM(
            model=checkpoint, kv_cache_dtype="fp8" if kv_cache == "fp8" else "auto",
            max_model_len=1024, enforce_eager=True, enable_prefix_caching=False,
            kv_cache_memory_bytes=1 << 30, gpu_memory_utilization=0.05,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - a refusal is a result
        found["error"] = str(error)
    else:
        found |= scores(llm, asked)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def emulate() -> None:
    """Mend vLLM's tables for the CPU; only in this process."""
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.fusion import fused_act_quant
    from vllm.platforms import PlatformEnum

    fused_act_quant._FUSED_ACT_QUANT.clear()
    nvfp4 = linear.EmulationNvFp4LinearKernel
    linear._POSSIBLE_NVFP4_KERNELS[PlatformEnum.CPU] = [nvfp4]
    mxfp8 = linear.EmulationMxfp8LinearKernel
    linear._POSSIBLE_MXFP8_KERNELS[PlatformEnum.CPU] = [mxfp8]


def scores(llm: LLM, asked: dict) -> dict[str, object]:
    """Score, then answer; a list of tokens is a prompt of its own, so nothing is tokenized."""
    given = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    scored = llm.generate([{"prompt_token_ids": row} for row in asked["windows"]], given)
    logprobs = [
        [
            place[token].logprob
            for token, place in zip(row[1:], one.prompt_logprobs[1:], strict=True)
        ]
        for row, one in zip(asked["windows"], scored, strict=True)
    ]
    greedy = SamplingParams(
        max_tokens=asked["answer"], temperature=0, ignore_eos=True, detokenize=False
    )
    answers = llm.generate([{"prompt_token_ids": row} for row in asked["prompts"]], greedy)
    return {
        "logprobs": logprobs,
        "answers": [list(one.outputs[0].token_ids) for one in answers],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
