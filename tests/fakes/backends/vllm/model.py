"""A stand-in for Triton's vLLM backend: says the words of the prompt, one a step.

Completes a configuration as the real one does (src/model.py@00ea75bc), reads `model.json`, and
takes sampling as JSON in `sampling_parameters` or from the request's parameters.
"""

import json
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
INPUTS = {"text_input": ("TYPE_STRING", False), "stream": ("TYPE_BOOL", True)}
INPUTS |= {"sampling_parameters": ("TYPE_STRING", True)}


class TritonPythonModel:
    @classmethod
    def auto_complete_config(cls, config):
        there = {tensor["name"] for tensor in config.as_dict()["input"]}
        for name, (kind, optional) in INPUTS.items():
            if name not in there:
                config.add_input(
                    {"name": name, "data_type": kind, "dims": [1], "optional": optional}
                )
        config.set_model_transaction_policy({"decoupled": True})
        config.set_max_batch_size(0)
        return config

    def initialize(self, args):
        home = Path(args["model_repository"], args["model_version"])
        said = json.loads((home / "model.json").read_text(encoding="utf-8"))
        if not (Path(said["model"]) / "config.json").is_file():
            raise pb.TritonModelException(f"{said['model']}: no checkpoint")
        if not pb.using_decoupled_model_transaction_policy(json.loads(args["model_config"])):
            raise pb.TritonModelException("must be decoupled")

    def execute(self, requests):
        for request in requests:
            threading.Thread(
                target=self.answer, args=(request, request.get_response_sender())
            ).start()

    def answer(self, request, sender):
        def read(name):
            tensor = pb.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy().reshape(-1)[0]

        sampling = read("sampling_parameters")
        sampling = json.loads(sampling if sampling is not None else request.parameters() or "{}")
        words = read("text_input").decode().split()[: int(sampling.get("max_tokens", 16))]
        if not read("stream"):
            self.send(sender, " ".join(words), FINAL)
            return
        for word in words:
            time.sleep(0.005)
            self.send(sender, word, 0)
        sender.send(flags=FINAL)

    def send(self, sender, text, flags):
        column = np.array([text.encode()], dtype=np.object_)
        sender.send(pb.InferenceResponse([pb.Tensor("text_output", column)]), flags=flags)
