"""A stand-in for vLLM's program: takes the words and the file of `vllm serve`, answers by rules.

Its arithmetic takes the tokens of the checkpoint's own tokenizer; a quantized checkpoint is a
little worse than its original. It calls itself 0.32.0+standin unless FAKE_VLLM_VERSION says
otherwise. `install` lays it out as a program.
"""

import asyncio
import json
import os
import stat
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "0.32.0+standin"
HARM = 0.01  # nats a token, of a quantized checkpoint
PACE = 0.01  # seconds before each piece of a streamed answer
WORDS = (" the", " answer", " is", " a", " mapping")


def install(folder, monkeypatch, *, version=""):
    """Put a program `vllm` into a folder, on the path; "" is a version that is nobody's."""
    program = folder / "vllm"
    folder.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "vllm_program.py"} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder), os.environ["PATH"])))
    monkeypatch.setenv("FAKE_VLLM_VERSION", version or VERSION)
    return program


@dataclass
class Chunk:
    text: str
    token_ids: list
    finish_reason: str | None = None


def scorer_of(checkpoint, limit):
    import numpy as np

    from builders.texts import Texts
    from fakes.scorers import Arithmetic, Likely

    texts = Texts.read(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())

    class Table(Arithmetic):
        vocabulary = texts.vocabulary

        def tokenize(self, text):
            return texts.encode(text)

        def detokenize(self, tokens):
            return "".join(texts.decode(token) for token in tokens)

        def likely(self, remainder, top):
            opinions = [self._opinion(remainder, token) for token in range(self.vocabulary)]
            raw = np.array(opinions)
            logprobs = raw - np.log(np.exp(raw).sum())
            best = np.argsort(-logprobs, kind="stable")[:top]
            return best, logprobs[best]

        def distributions(self, rows, top, **_):
            told = ([self.likely(before % 97, top) for before in row[:-1]] for row in rows)
            return [Likely(*(np.array(part) for part in zip(*row, strict=True))) for row in told]

        def generate(self, prompt, sampling):
            for number in range(1, sampling.max_tokens + 1):
                last = number == sampling.max_tokens
                word = WORDS[number % len(WORDS)]
                yield Chunk(word, [number], "length" if last else None)

    harm = HARM if config.get("quantization_config") else 0.0
    made = Table(context=limit, harm=harm)
    # An opinion depends on the token before by its remainder only.
    made.likely = lru_cache(maxsize=1024)(made.likely)
    return made


def checked(words):
    """Take the words as vLLM would, with the file before them; what it does not know ends it."""
    import yaml

    from builders.engine.vllm.arguments import known

    flags = dict(zip(words[::2], words[1::2], strict=True))
    said = yaml.safe_load(Path(flags.pop("--config")).read_text())
    served = {"--served-model-name", "--host", "--port", "--gpu-memory-utilization"}
    unknown = (said.keys() - known()) | (flags.keys() - served)
    if unknown:
        sys.exit(f"vllm serve: error: unrecognized arguments: {sorted(unknown)}")
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        assert os.environ[name] == "1", name
    return said, flags


async def serve(checkpoint, words):
    from fakes.openai import Canned, whole
    from fakes.scoring_server import ScoringServer

    said, flags = checked(words)
    limit = said["max_model_len"]
    answers = ScoringServer(
        scorer_of(Path(checkpoint), limit), model=flags["--served-model-name"], limit=limit
    )

    def reply(path, body):
        if path == "/health":
            return whole("200 OK", {})
        said = answers(path, body)
        return [x for part in said for x in (PACE, part)] if body.get("stream") else said

    canned = Canned(reply)
    server = await asyncio.start_server(canned.handle, flags["--host"], int(flags["--port"]))
    sys.stderr.write("Application startup complete.\n")
    sys.stderr.flush()
    await server.serve_forever()


def main(words):
    sys.path[0] = str(HERE.parent)
    if words == ["--version"]:
        sys.stdout.write(os.environ.get("FAKE_VLLM_VERSION", VERSION) + "\n")
        return
    command, checkpoint, *rest = words
    assert command == "serve", command
    asyncio.run(serve(checkpoint, rest))


if __name__ == "__main__":
    main(sys.argv[1:])
