"""A stand-in for TensorRT-LLM's LLM API: it says the words of the prompt, one token a step.

It has the calls and fields of tensorrt_llm 1.2 that our model uses, refuses arguments that it does
not know as the real one does, and computes nothing. Its version says what it is, so that nothing
that was measured with it can be promoted.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

__version__ = "1.2.1+standin"

STEP_S = 0.005
KNOWN = {
    "model", "backend", "tensor_parallel_size", "pipeline_parallel_size", "max_batch_size",
    "max_num_tokens", "max_seq_len", "max_beam_width", "dtype", "trust_remote_code",
    "enable_chunked_prefill", "kv_cache_config", "cuda_graph_config", "moe_expert_parallel_size",
    "moe_config", "enable_attention_dp",
}  # fmt: skip


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that our model sets."""

    max_tokens: int = 32
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list | None = None
    ignore_eos: bool = False
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    exclude_input_from_output: bool = True


@dataclass
class CompletionOutput:
    """One answer as far as it has grown: its text and tokens are those of the whole."""

    text: str = ""
    token_ids: list = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: object = None
    cumulative_logprob: float = 0.0


@dataclass
class RequestOutput:
    """What a step of a request gives."""

    outputs: list
    finished: bool


class Result:
    """A request on its way; leaves room for an abort between steps."""

    def __init__(self, llm, prompt, params, streaming):
        self.llm, self.params, self.streaming = llm, params, streaming
        self.prompt, self.aborted = prompt, False
        self.pieces = re.findall(r"\s*\S+", prompt)

    def abort(self):
        self.aborted = True
        self.llm.aborted += 1

    async def __aiter__(self):
        if self.prompt == "fail":
            raise RuntimeError("the engine failed")
        endless = self.prompt == "babble"
        answer, step = CompletionOutput(), 0
        while True:
            await asyncio.sleep(STEP_S)
            if self.aborted:
                answer.finish_reason = "cancelled"
            elif endless or step < len(self.pieces):
                self.take(answer, self.pieces[0 if endless else step], step)
            else:
                answer.finish_reason = "stop"
            step += 1
            finished = answer.finish_reason is not None
            if self.streaming or finished:
                yield RequestOutput([CompletionOutput(**vars(answer))], finished)
            if finished:
                return

    def take(self, answer, piece, step):
        answer.text += piece
        answer.token_ids = [*answer.token_ids, 100 + step]
        answer.cumulative_logprob -= 0.5
        for stop in self.params.stop or ():
            if stop in answer.text:
                answer.text = answer.text[: answer.text.index(stop)]
                answer.finish_reason, answer.stop_reason = "stop", stop
        if answer.finish_reason is None and len(answer.token_ids) >= self.params.max_tokens:
            answer.finish_reason = "length"


class LLM:
    """Refuses what the real one refuses at its start, then answers."""

    def __init__(self, **arguments):
        unknown = sorted(arguments.keys() - KNOWN)
        if unknown:
            raise ValueError(f"{unknown[0]}: Extra inputs are not permitted")
        if not (Path(arguments["model"]) / "config.json").is_file():
            raise FileNotFoundError(f"{arguments['model']}: no checkpoint")
        self.arguments, self.aborted, self.ended, self.asked = arguments, 0, False, []

    def generate_async(self, prompt, sampling_params=None, streaming=False):  # noqa: FBT002
        if len(prompt.split()) > self.arguments.get("max_seq_len", 1 << 30):
            raise ValueError("the prompt is longer than max_seq_len")
        asyncio.get_running_loop()  # as the real one, it belongs to the loop it is called in
        self.asked.append(sampling_params)
        return Result(self, prompt, sampling_params or SamplingParams(), streaming)

    def shutdown(self):
        time.sleep(0)
        self.ended = True
