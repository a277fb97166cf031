"""Quantize with GPTQModel; runs in the environment ``gptq``, where nothing of builders is.

Reads one JSON job from stdin: ``method`` (gptq, awq), ``checkpoint``, ``out``, ``bits``, ``group``,
``desc_act``, ``kept`` (modules left alone), ``documents`` (each a ``text``, and whether the
tokenizer adds its ``special`` tokens) and ``length`` (tokens of each). Answers on stdout, one JSON
object a line; what libraries print goes to stderr.
"""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# GPTQModel makes its pool of threads when it is imported, of one worker on two cores, and then
# waits for a second one for ever.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, min(8, os.cpu_count() or 2))))

Job = dict[str, Any]
Progress = Callable[..., None]


def main() -> None:
    """Do the job; the last line says whether it went well."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # from here on whoever prints prints into the log

    def say(kind: str, value: object) -> None:
        answers.write(json.dumps({kind: value}) + "\n")

    try:
        say("result", quantize(json.load(sys.stdin), lambda **facts: say("progress", facts)))
    except Failure as failure:
        say("error", {"what": str(failure), "hint": failure.hint, "kind": failure.kind})


class Failure(Exception):
    """Something to tell the user in one line; of kind ``usage`` if it is theirs to mend."""

    def __init__(self, what: str, *, hint: str = "", kind: str = "tool") -> None:
        super().__init__(what)
        self.hint, self.kind = hint, kind


def quantize(job: Job, progress: Progress) -> dict[str, object]:
    """Calibrate, round and write the checkpoint that the job names."""
    progress(what="load the quantizer", done=0, total=1)
    with told("GPTQModel cannot be imported"):
        import gptqmodel  # noqa: PLC0415 - of the environment that this program runs in
        import torch
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = tokens(job)
    with told(f"GPTQModel could not load {job['checkpoint']}"):
        settings = config(job, device, gptqmodel)
        model = gptqmodel.GPTQModel.load(job["checkpoint"], settings, trust_remote_code=False)
    progress(what="load the quantizer", done=1, total=1)
    model.layer_callback = Steps(model.model.config.get_text_config().num_hidden_layers, progress)
    # This only names who packs. GPTQModel's first choice for AWQ refuses a machine without CUDA.
    packer = gptqmodel.BACKEND.AWQ_TORCH if job["method"] == "awq" else gptqmodel.BACKEND.AUTO
    with told(f"GPTQModel could not quantize {job['checkpoint']}"):
        model.quantize(rows, batch_size=1, backend=packer, calibration_data_min_length=1)
    progress(what="export", done=0, total=1)
    with told(f"GPTQModel could not write {job['out']}"):
        keep_biases(model.model)
        model.save(job["out"])
    progress(what="export", done=1, total=1)
    return {"device": device, "tokens": sum(len(row["input_ids"]) for row in rows)}


def config(job: Job, device: str, gptqmodel: Any) -> Any:  # noqa: ANN401 - it has no types
    """Return GPTQModel's own settings for a job."""
    words = gptqmodel.quantization
    by_method = {
        "gptq": {"sym": True, "desc_act": job.get("desc_act", False)},
        "awq": {"sym": False, "method": words.METHOD.AWQ, "format": words.FORMAT.GEMM},
    }
    return gptqmodel.QuantizeConfig(
        bits=job["bits"],
        group_size=job["group"],
        device=device,
        dynamic={rf"-:^{re.escape(name)}$": {} for name in job["kept"]} or None,
        offload_to_disk=False,
        pack_impl="original",  # the default compiles an extension for a minute
        **by_method[job["method"]],
    )


def keep_biases(model: Any) -> None:  # noqa: ANN401 - it has no types
    """Give biases the model's own dtype again; GPTQModel makes them float16."""
    for module in model.modules():
        if hasattr(module, "qweight") and module.bias is not None:
            module.bias = module.bias.to(model.config.get_text_config().dtype)


class Steps:
    """Passes on how many layers are finished."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress, self.done = total, progress, 0
        progress(what="quantize", done=0, total=total, unit="layers")

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:
        """Hear that a layer is done; GPTQModel says so twice."""
        if submodule_finalized and layer_idx >= self.done:
            self.done = layer_idx + 1
            self.progress(what="quantize", done=self.done, total=self.total, unit="layers")


def tokens(job: Job) -> list[dict[str, list[int]]]:
    """Tokenize the documents; each is cut to the length."""
    with told(f"{job['checkpoint']}: the tokenizer cannot be read", kind="usage"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            job["checkpoint"], local_files_only=True, trust_remote_code=False
        )
    cut = {"truncation": True, "max_length": job["length"]}
    rows = [
        tokenizer(document["text"], add_special_tokens=document["special"], **cut)["input_ids"]
        for document in job["documents"]
    ]
    found = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows if row]
    if not found:
        raise Failure(
            "the calibration texts have no tokens", hint="give longer texts", kind="usage"
        )
    return found


@contextmanager
def told(what: str, *, kind: str = "tool") -> Iterator[None]:
    """Turn whatever a library raises into one line; the log has the whole story."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise Failure(f"{what}: {first}", kind=kind) from error


if __name__ == "__main__":
    main()
