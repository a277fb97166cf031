"""Stands in for the worker that drives GPTQModel: rounds to nearest, packs as GPTQModel packs.

Runs in the tests' own Python. Without a sense for activations it is no GPTQ and no AWQ, but each
tensor has the name, dtype, shape and packing that GPTQModel 7.6.0 gives it; so has config.json.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from fakes.checkpoints import bfloat16, read_safetensors, write_safetensors

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight columns each nibble holds, lowest first


def main():
    job = json.load(sys.stdin)
    source, out = Path(job["checkpoint"]), Path(job["out"])
    tensors = read_safetensors(source / "model.safetensors")
    made = {}
    for name, (dtype, data) in tensors.items():
        module = name.removesuffix(".weight")
        if name.endswith("_proj.weight") and module not in job["kept"]:
            weight = (data.astype(np.uint32) << 16).view(np.float32)
            parts = {"gptq": gptq, "awq": awq}[job["method"]](weight, job)
            made |= {f"{module}.{part}": value for part, value in parts.items()}
        else:
            made[name] = (dtype, data)
    write_safetensors(out / "model.safetensors", made)
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": said(job)}))
    (out / "quantize_config.json").write_text("{}")
    (out / "job.json").write_text(json.dumps(job))
    sys.stdout.write(json.dumps({"result": {"device": "cpu", "tokens": 0}}) + "\n")


def said(job):
    common = {"bits": job["bits"], "group_size": job["group"], "lm_head": False}
    if job["kept"]:
        common["dynamic"] = {f"-:^{name}$": {} for name in job["kept"]}
    if job["method"] == "awq":
        return common | {"quant_method": "awq", "version": "gemm", "zero_point": True}
    desc_act = job["desc_act"]
    more = {"checkpoint_format": "gptq", "sym": True, "desc_act": desc_act}
    return common | {"quant_method": "gptq"} | more


def rounded(weight, group, *, symmetric):
    """Return codes (in, out), zero points and scales (groups, out)."""
    columns = weight.T.reshape(-1, group, weight.shape[0])
    if symmetric:
        scales = np.abs(columns).max(1) / 7
        zeros = np.full(scales.shape, 8)
    else:
        low, high = columns.min(1), columns.max(1)
        scales = (high - low) / 15
        zeros = np.clip(np.round(-low / scales), 0, 15).astype(int)
    codes = np.clip(np.round(columns / scales[:, None]) + zeros[:, None], 0, 15).astype(int)
    return codes.reshape(weight.T.shape), zeros, scales.astype(np.float32)


def packed(codes, axis, order=range(8)):
    eight = np.moveaxis(codes, axis, -1)
    eight = eight.reshape(*eight.shape[:-1], -1, 8).astype(np.uint32)
    words = np.zeros(eight.shape[:-1], np.uint32)
    for place, column in enumerate(order):
        words |= eight[..., column] << np.uint32(4 * place)
    return ("I32", np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32))


def gptq(weight, job):
    codes, zeros, scales = rounded(weight, job["group"], symmetric=True)
    inputs = np.arange(weight.shape[1])
    return {
        "qweight": packed(codes, 0),
        "qzeros": packed(zeros - 1, 1),  # the first version of the format
        "scales": ("F16", scales.astype(np.float16)),
        "g_idx": ("I32", (inputs // job["group"]).astype(np.int32)),
    }


def awq(weight, job):
    codes, zeros, scales = rounded(weight, job["group"], symmetric=False)
    return {
        "qweight": packed(codes, 1, AWQ_ORDER),
        "qzeros": packed(zeros, 1, AWQ_ORDER),
        "scales": ("BF16", bfloat16(scales)),
    }


if __name__ == "__main__":
    main()
