"""One running server that the tests of this room share, with a model that starts in a moment."""

import pytest

from builders import serve
from fakes import triton_repositories


@pytest.fixture(scope="session")
def echo_repository(tmp_path_factory):
    return triton_repositories.echo(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="session")
def server(echo_repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "triton.log"
    with serve.tritonserver(echo_repository, log=log, deadline=60) as running:
        yield running
