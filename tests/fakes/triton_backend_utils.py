"""A working stand-in for ``triton_python_backend_utils``, which exists inside Triton only.

Requests, senders and responses behave as Triton's do; a sender refuses what Triton refuses.
"""

import json
import threading
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    """What a model raises to say that it cannot be loaded."""


class TritonError:
    """An error with one of Triton's codes."""

    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = (
        "internal",
        "invalid",
        "unavailable",
        "cancelled",
    )

    def __init__(self, message, code):
        self.message, self.code = message, code


class Logger:
    """Keeps warnings in a list."""

    warnings: ClassVar[list[str]] = []

    @classmethod
    def log_warn(cls, line):
        cls.warnings.append(line)


class Tensor:
    """A named array."""

    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, output_tensors=(), error=None):
        self.error = error
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}


@dataclass
class Sender:
    """Keeps what was sent; breaks where Triton would: nothing may follow the final response."""

    broken: bool = False
    gone: bool = False
    sent: list[InferenceResponse] = field(default_factory=list)
    final: threading.Event = field(default_factory=threading.Event)

    def send(self, response, flags=0):
        if self.broken:
            raise TritonModelException("the shared memory is full")
        if self.final.is_set():
            raise TritonModelException("the response sender is closed")
        self.sent.append(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.final.set()

    def is_cancelled(self):
        return self.gone


_TYPES = {"text_input": np.object_, "stop": np.object_, "seed": np.uint64, "stream": np.bool_}
_TYPES |= {"ignore_eos": np.bool_, "max_tokens": np.int32, "top_k": np.int32}


class Request:
    """Inputs by name, as arrays of Triton's types, and what Triton calls parameters."""

    def __init__(self, parameters=None, sender=None, **inputs):
        self.sender = sender or Sender()
        self._parameters = json.dumps(parameters or {})
        self._inputs = {name: self._tensor(name, value) for name, value in inputs.items()}

    @staticmethod
    def _tensor(name, value):
        values = value if isinstance(value, list) else [value]
        raw = [v.encode() if isinstance(v, str) else v for v in values]
        return Tensor(name, np.array(raw, dtype=_TYPES.get(name, np.float32)))

    def parameters(self):
        return self._parameters

    def get_response_sender(self):
        return self.sender


def get_input_tensor_by_name(request, name):
    return request._inputs.get(name)
