"""Let reading, computing and writing overlap: one thread is a piece ahead, one a piece behind."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Given = ParamSpec("Given")


def prepared(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
    """Yield every item with what is made of it; meanwhile a thread makes that of the next one."""
    pool = ThreadPoolExecutor(1, "prepare")
    coming: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            coming.append((item, pool.submit(make, item)))
            if len(coming) > 1:
                before, future = coming.popleft()
                yield before, future.result()
        for item, future in coming:
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Does one piece of work in a thread while the caller makes the next; ends with all done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write")
        self._last: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if failed is None:
            self._settle()

    def do(self, work: Callable[Given, object], *args: Given.args, **named: Given.kwargs) -> None:
        """Begin as soon as the piece before is done; its error is raised here."""
        self._settle()
        self._last = self._pool.submit(work, *args, **named)

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()
