"""The models and servers that gates measure: opened on first use, all ended together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from builders import engine, serve
from builders.gate import Endpoint
from builders.gate.speed.latency import Pair
from builders.home import Home
from builders.pipeline import lanes, speaking
from builders.scorer import Scorer
from builders.serve.openai import OpenAiServer

OpenEndpoint = Callable[[], AbstractAsyncContextManager[Endpoint]]


@dataclass(slots=True, kw_only=True)
class Subjects:
    """Opens what a gate needs; a model is kept until another takes its place, servers to the end.

    ``home`` is where servers write their logs; ``name`` the model's name in its repository.
    """

    name: str
    home: Home
    _started: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _endpoints: dict[Path, OpenEndpoint] = field(default_factory=dict)
    _scorer: tuple[Path, Scorer, ExitStack] | None = None

    def open(self, needs: str, paths: Sequence[Path]) -> object:
        """Return a scorer, an endpoint, or a pair of endpoints, as the gate ``needs``."""
        if needs == "scorer":
            return self._score(paths[0])
        endpoints = [self._serve(path) for path in paths]
        if needs == "endpoint":
            return endpoints[0]
        return Pair(baseline=endpoints[0], candidate=endpoints[1])

    def _score(self, path: Path) -> Scorer:
        if self._scorer and self._scorer[0] == path:
            return self._scorer[1]
        self._close_scorer()
        stack = ExitStack()
        if speaking.speaks(path):
            server = stack.enter_context(self._speaking(path))
            scorer = stack.enter_context(speaking.scored(server, path, self.name))
        else:
            scorer = stack.enter_context(engine.scorer(path))
        self._scorer = (path, scorer, stack)
        return scorer

    def _serve(self, path: Path) -> OpenEndpoint:
        self._close_scorer()
        if path not in self._endpoints:
            self._endpoints[path] = self._opened(path)
        return self._endpoints[path]

    def _opened(self, path: Path) -> OpenEndpoint:
        built = speaking.engine_of(path)
        if built and speaking.speaks(built):
            speaker = self._stack.enter_context(self._speaking(built))
            return speaking.endpoint(speaker, self.name)
        how = lanes.hosting(path)
        log = self._log("triton")
        server = self._stack.enter_context(serve.tritonserver(path, log=log, how=how))
        return serve.endpoint(server, self.name)

    def _speaking(self, path: Path) -> AbstractContextManager[OpenAiServer]:
        at = speaking.At(shared=True)
        return speaking.served(path, self.name, log=self._log("vllm"), home=self.home, at=at)

    def _log(self, program: str) -> Path:
        self._started += 1
        return self.home.runs / f"{program}-{self._started - 1}.log"

    def _close_scorer(self) -> None:
        if self._scorer:
            self._scorer[2].close()
            self._scorer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_scorer()
        self._stack.close()
