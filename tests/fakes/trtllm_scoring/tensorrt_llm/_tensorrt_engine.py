"""The stand-in's backend for compiled engines: the checkpoint lies beside the engine."""

import json

from tensorrt_llm import LLM as _LLM


class LLM(_LLM):
    """Returns no context logits unless the engine was built for it."""

    @property
    def folder(self):
        return super().folder / "checkpoint"

    def _one(self, tokens, params):
        built = json.loads((super().folder / "config.json").read_text())["build_config"]
        if not built["gather_context_logits"]:
            raise RuntimeError("context logits were not gathered")
        return super()._one(tokens, params)
