"""One running server that the tests of this room share, with a model that starts in a moment."""

import os

import pytest

from builders import serve
from fakes import triton_repositories

# As `serve` does before it loads gRPC, which test modules import themselves.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


@pytest.fixture(scope="session")
def echo_repository(tmp_path_factory):
    return triton_repositories.echo(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="session")
def server(echo_repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "triton.log"
    with serve.tritonserver(echo_repository, log=log, deadline=60) as running:
        yield running
