"""Does a server really answer? Asked before anything is timed: to say nothing is quickly done."""

from builders.errors import EvidenceError
from builders.gate import Endpoint
from builders.gate.speed import traffic
from builders.gate.speed.traffic import Load
from builders.gate.wire import client

_SEAM = 4  # tokens that cutting a prompt in two may make or save


async def refuse_silence(endpoint: Endpoint, load: Load, *, side: str) -> None:
    """Refuse a server that answers with nothing, or that reads only a part of its prompts."""
    shots = traffic.of_pair(load, 0)
    answer = await _ask(endpoint, load, shots[0].prompt, shots[0].tokens, side=side)
    if not answer.text:
        raise EvidenceError(
            f"latency: the {side} answers a prompt with nothing", hint="read the server's log"
        )
    if answer.prompt_tokens is not None:
        await _refuse_truncation(endpoint, load, max(shots, key=_length).prompt, side=side)


async def _refuse_truncation(endpoint: Endpoint, load: Load, prompt: str, *, side: str) -> None:
    """Refuse a server that finds a prompt much shorter than its two halves.

    A chat template is counted once in the whole and twice in the halves; how long it is shows in
    the shortest prompt.
    """
    words = prompt.split(" ")
    halves = (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :]))
    if not all(halves):
        return
    whole, first, second, least = [
        (await _ask(endpoint, load, text, 1, side=side)).prompt_tokens or 0
        for text in (prompt, *halves, "a")
    ]
    if whole < first + second - least - _SEAM:
        raise EvidenceError(
            f"latency: the {side} reads {whole} tokens of a prompt whose halves have {first} and "
            f"{second}: it truncates prompts",
            hint="raise the server's context, or shorten the prompts",
        )


async def _ask(
    endpoint: Endpoint, load: Load, prompt: str, tokens: int, *, side: str
) -> client.Answer:
    request = client.Request(prompt=prompt, max_tokens=tokens, ignore_eos=True, seed=load.seed)
    return await client.ask(endpoint, request, who=f"latency: {side}", timeout=load.timeout)


def _length(shot: traffic.Shot) -> int:
    return len(shot.prompt)
