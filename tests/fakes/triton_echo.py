"""A model for Triton's Python backend without a network: it says the words that it is sent.

Some prompts are orders: ``babble`` goes on for ever, ``hang`` never answers, ``count`` tells how
many requests were cancelled, ``fail`` answers with an error, ``many`` with two responses even to a
client that wants one, ``mute`` with no tokens, ``half`` without an end, ``die`` ends the process.
"""

import os
import threading
import time

import numpy as np
import triton_python_backend_utils as pb

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.cancelled = 0

    def execute(self, requests):
        for request in requests:
            given = {
                name: pb.get_input_tensor_by_name(request, name).as_numpy().tolist()
                for name in ("text_input", "max_tokens", "stream")
                if pb.get_input_tensor_by_name(request, name) is not None
            }
            prompt = given["text_input"][0].decode()
            most = given.get("max_tokens", [99])[0]
            stream = given.get("stream", [False])[0]
            sender = request.get_response_sender()
            threading.Thread(target=self.answer, args=(sender, prompt, most, stream)).start()

    def answer(self, sender, prompt, most, stream):
        order = getattr(self, f"do_{prompt}", None)
        if order:
            order(sender)
            return
        words = prompt.split()[:most]
        pieces = words if stream else ["".join(words)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            tokens = 1 if stream else len(words)
            self.send(sender, piece, tokens, "length" if last else "", FINAL if last else 0)

    def do_babble(self, sender):
        while not sender.is_cancelled():
            self.send(sender, "bla", 1, "", 0)
            time.sleep(0.01)
        self.cancelled += 1
        self.fail(sender, "cancelled", pb.TritonError.CANCELLED)

    def do_hang(self, sender):
        while not sender.is_cancelled():
            time.sleep(0.01)
        self.cancelled += 1
        self.fail(sender, "cancelled", pb.TritonError.CANCELLED)

    def do_count(self, sender):
        self.send(sender, str(self.cancelled), 1, "stop", FINAL)

    def do_fail(self, sender):
        self.fail(sender, "max_tokens must be at least 1", pb.TritonError.INVALID_ARG)

    def do_many(self, sender):
        self.send(sender, "one", 1, "", 0)
        self.send(sender, "two", 1, "stop", FINAL)

    def do_mute(self, sender):
        self.send(sender, "", 0, "stop", FINAL)

    def do_half(self, sender):
        self.send(sender, "one", 1, "", 0)
        sender.send(flags=FINAL)

    def do_die(self, sender):
        os._exit(3)

    def send(self, sender, text, tokens, reason, flags):
        columns = {
            "text_output": np.array([text.encode()], dtype=np.object_),
            "token_ids": np.arange(tokens, dtype=np.int32),
            "logprobs": np.zeros(tokens, dtype=np.float32),
            "token_count": np.array([tokens], dtype=np.int32),
            "finish_reason": np.array([reason.encode()], dtype=np.object_),
        }
        tensors = [pb.Tensor(name, column) for name, column in columns.items()]
        sender.send(pb.InferenceResponse(tensors), flags=flags)

    def fail(self, sender, message, code):
        sender.send(pb.InferenceResponse(error=pb.TritonError(message, code)), flags=FINAL)
