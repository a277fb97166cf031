"""A stand-in for Triton's C++ backend `tensorrtllm`: says the prompt's tokens again, one a step.

A Python-based backend: it takes the models that name it, their `config.pbtxt` untouched. It reads
what the real one reads (the engine's config.json at `gpt_model_path`), obeys `streaming`, word
lists, `end_id` and `exclude_input_in_output`, and computes nothing.
"""

import json
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
STEP_S = 0.005


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        if not config["model_transaction_policy"]["decoupled"]:
            raise pb.TritonModelException("the stand-in streams only")
        if values["gpt_model_type"] not in {"inflight_fused_batching", "V1"}:
            raise pb.TritonModelException(f"gpt_model_type {values['gpt_model_type']}")
        engine = Path(values["gpt_model_path"])
        engine_config = json.loads((engine / "config.json").read_text(encoding="utf-8"))
        if engine_config["build_config"]["max_batch_size"] < config["max_batch_size"]:
            raise pb.TritonModelException("max_batch_size is more than the engine's")
        if not list(engine.glob("rank*.engine")):
            raise pb.TritonModelException(f"{engine}: no rank has an engine")

    def execute(self, requests):
        for request in requests:
            threading.Thread(
                target=self.answer, args=(request, request.get_response_sender())
            ).start()

    def answer(self, request, sender):
        def read(name, usual=None):
            tensor = pb.get_input_tensor_by_name(request, name)
            return usual if tensor is None else tensor.as_numpy().reshape(-1)

        ids = read("input_ids")[: int(read("input_lengths")[0])].tolist()
        most = int(read("request_output_len")[0])
        end = int(read("end_id", [-1])[0])
        stops = words(pb.get_input_tensor_by_name(request, "stop_words_list"))
        streaming = bool(read("streaming", [False])[0])
        said, final = [], False
        while not final:
            time.sleep(STEP_S)
            token = ids[len(said) % len(ids)]
            said.append(token)
            stopped = any(said[-len(word) :] == word for word in stops)
            final = len(said) >= most or token == end or stopped or sender.is_cancelled()
            if streaming:
                self.send(sender, [token], FINAL if final else 0)
        if not streaming:
            self.send(sender, said, FINAL)

    def send(self, sender, tokens, flags):
        count = len(tokens)
        columns = {
            "output_ids": np.array(tokens, dtype=np.int32).reshape(1, 1, count),
            "sequence_length": np.array([[count]], dtype=np.int32),
            "cum_log_probs": np.zeros((1, 1), dtype=np.float32),
            "output_log_probs": np.zeros((1, 1, count), dtype=np.float32),
            "batch_index": np.zeros((1, 1), dtype=np.int32),
            "sequence_index": np.zeros((1, 1), dtype=np.int32),
        }
        sender.send(
            pb.InferenceResponse([pb.Tensor(*pair) for pair in columns.items()]), flags=flags
        )


def words(tensor):
    if tensor is None or not tensor.as_numpy().size:
        return []
    flat, ends = tensor.as_numpy().reshape(2, -1).tolist()
    bounds = [0, *[end for end in ends if end > 0]]
    return [flat[begin:end] for begin, end in pairwise(bounds)]
