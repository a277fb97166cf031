"""The models and servers that gates measure: opened on first use, all ended together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from builders import engine, serve
from builders.gate import Endpoint
from builders.gate.speed.latency import Pair
from builders.pipeline import lanes
from builders.scorer import Scorer

OpenEndpoint = Callable[[], AbstractAsyncContextManager[Endpoint]]


@dataclass(slots=True, kw_only=True)
class Subjects:
    """Opens what a gate needs; a model is kept until another takes its place, servers to the end.

    ``logs`` is where servers write; ``name`` the model's name in its repository.
    """

    name: str
    logs: Path
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
        scorer = stack.enter_context(engine.scorer(path))
        self._scorer = (path, scorer, stack)
        return scorer

    def _serve(self, path: Path) -> OpenEndpoint:
        self._close_scorer()
        if path not in self._endpoints:
            log = self.logs / f"triton-{len(self._endpoints)}.log"
            server = self._stack.enter_context(
                serve.tritonserver(path, log=log, how=lanes.hosting(path))
            )
            self._endpoints[path] = serve.endpoint(server, self.name)
        return self._endpoints[path]

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
