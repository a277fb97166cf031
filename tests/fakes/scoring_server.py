"""A stand-in for vLLM's completions on top of a real scorer: every answer is computed.

`ScoringServer(scorer)` is a reply for `fakes.openai.serving_aside`. ``style`` is how it tells
log-probabilities of a prompt: ``vllm`` (prompt_logprobs and echo), ``echo`` (OpenAI's old form, no
empty answers), ``silent`` (it ignores both). ``lie`` changes an honest answer before it is sent.
A scorer that also generates answers streams, token by token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.openai import CUT, Reply, event, stream, whole


def nothing(answer: dict, body: dict) -> dict:
    return answer


@dataclass
class ScoringServer:
    scorer: Any
    model: str = "demo"
    style: str = "vllm"
    limit: int | None = None
    lie: Callable[[dict, dict], Any] = nothing
    dies_after: int | None = None
    busy: int = 0
    adds: tuple[int, ...] = ()
    cuts: int | None = None
    key: str = ""
    rows: list[list[int]] = field(default_factory=list)

    def __call__(self, path: str, body: dict) -> Reply:
        if path.endswith("/models"):
            listed = {"id": self.model, "object": "model"}
            more = {"max_model_len": self.limit} if self.limit else {}
            return whole("200 OK", {"object": "list", "data": [listed | more]})
        if self.busy:
            self.busy -= 1
            return whole("503 Service Unavailable", {"error": {"message": "no room"}})
        if self.dies_after is not None and len(self.rows) >= self.dies_after:
            return (CUT,)
        if body["model"] != self.model:
            return self._refused("404 Not Found", f"the model {body['model']} does not exist")
        if body.get("stream"):
            return self._streamed(body)
        return self._scored(body)

    def _refused(self, status, message):
        return whole(status, {"error": {"message": message, "code": int(status[:3])}})

    def _scored(self, body):
        prompt = body["prompt"]
        row = [*self.adds, *(self.scorer.tokenize(prompt) if isinstance(prompt, str) else prompt)]
        row = row[: self.cuts]
        self.rows.append(row)
        if self.limit and len(row) + body["max_tokens"] > self.limit:
            return self._refused("400 Bad Request", f"the context is {self.limit} tokens")
        if self.style == "echo" and body["max_tokens"] < 1:
            return self._refused("400 Bad Request", "max_tokens must be at least 1")
        return whole("200 OK", self.lie(self._answer(row, body), body))

    def _answer(self, row, body):
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": None}
        if self.style == "vllm" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = self._numbered(row, body["prompt_logprobs"])
            choice["prompt_token_ids"] = row if body.get("return_token_ids") else None
        if self.style != "silent" and body.get("echo"):
            choice["logprobs"] = self._echoed(row, body)
        used = {"prompt_tokens": len(row), "completion_tokens": body["max_tokens"]}
        return {
            "object": "text_completion",
            "model": self.model,
            "choices": [choice],
            "usage": used,
        }

    def _told(self, row, top):
        """Each place from the second on: the token, its ln p and rank, the likeliest tokens."""
        [score] = self.scorer.score([row])
        [likely] = self.scorer.distributions([row], max(top, 1))
        places = zip(
            row[1:],
            score.logprobs.tolist(),
            score.greedy.tolist(),
            likely.tokens.tolist(),
            likely.logprobs.tolist(),
            strict=True,
        )
        for token, value, greedy, tokens, values in places:
            rank = 1 if greedy else tokens.index(token) + 1 if token in tokens else top + 2
            yield token, value, rank, dict(zip(tokens, values, strict=True))

    def _numbered(self, row, top):
        found = [None]
        for token, value, rank, likely in self._told(row, top):
            place = {str(token): {"logprob": value, "rank": rank, "decoded_token": "?"}}
            for at, (other, its) in enumerate(likely.items(), start=1):
                said = {"logprob": its, "rank": at, "decoded_token": "?"}
                place.setdefault(str(other), said)
            found.append(place)
        return found

    def _echoed(self, row, body):
        numbers = self.style == "vllm" and body.get("return_tokens_as_token_ids")

        def name(token):
            return f"token_id:{token}" if numbers else self.scorer.detokenize([token])

        told = list(self._told(row, body["logprobs"]))
        columns = {
            "tokens": [name(token) for token in row],
            "token_logprobs": [None, *(value for _, value, _, _ in told)],
            "top_logprobs": [
                None,
                *({name(t): p for t, p in likely.items()} for _, _, _, likely in told),
            ],
        }
        for _ in range(body["max_tokens"]):
            for column, value in zip(columns.values(), (name(row[0]), -1.0, {}), strict=True):
                column.append(value)
        return columns

    def _streamed(self, body):
        from builders.engine.embedded.types import Sampling

        sampling = Sampling(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            seed=body["seed"],
            stop=tuple(body.get("stop", ())),
            ignore_eos=body.get("ignore_eos", False),
        )
        count, events = 0, []
        prompt = len(self.scorer.tokenize(body["prompt"]))
        for chunk in self.scorer.generate(body["prompt"], sampling):
            count += len(chunk.token_ids)
            used = {"prompt_tokens": prompt, "completion_tokens": count}
            choice = {"index": 0, "text": chunk.text, "finish_reason": chunk.finish_reason}
            events.append(event(choices=[choice], usage=used))
        return stream(events)
