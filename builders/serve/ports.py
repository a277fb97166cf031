"""Ports on loopback: which are free, and a clear word when one is not."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from builders.errors import ToolError, UsageError

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens for HTTP, gRPC and metrics; 0 stands for any free port."""

    http: int = 0
    grpc: int = 0
    metrics: int = 0

    def __post_init__(self) -> None:
        for port in (self.http, self.grpc, self.metrics):
            if not 0 <= port <= 65535:
                raise UsageError(f"{port} is no port", hint="1 to 65535, or 0 for any free one")

    @property
    def chosen(self) -> bool:
        """Whether somebody asked for a port by number."""
        return bool(self.http or self.grpc or self.metrics)

    def free(self) -> "Ports":
        """Fill in free ports; one that was asked for and is taken is a `ToolError`.

        All three are held until all are found, so they differ. Another program may still take one
        before the server does.
        """
        with ExitStack() as held:
            http, grpc, metrics = (
                held.enter_context(_bound(port)) for port in (self.http, self.grpc, self.metrics)
            )
        return Ports(http=http, grpc=grpc, metrics=metrics)


@contextmanager
def _bound(port: int) -> Iterator[int]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError as error:
            raise ToolError(
                f"port {port} on {HOST} cannot be used: {error.strerror}",
                hint="choose another port, or 0 for any free one",
            ) from error
        yield listener.getsockname()[1]
