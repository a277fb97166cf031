"""Free ports differ, and a taken one is said before the server tries."""

import socket

import pytest

from builders.errors import ToolError, UsageError
from builders.serve.ports import Ports


def test_free_ports_differ():
    for _ in range(20):
        ports = Ports().free()
        assert len({ports.http, ports.grpc, ports.metrics} - {0}) == 3


def test_a_port_that_was_asked_for_is_kept():
    wanted = Ports().free().http
    assert Ports(grpc=wanted).free().grpc == wanted


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ToolError, match=f"port {port} on 127.0.0.1.*in use") as caught:
            Ports(http=port).free()
    assert "choose another port" in caught.value.hint


def test_one_port_cannot_serve_two_ends():
    wanted = Ports().free().http
    with pytest.raises(ToolError, match=f"port {wanted}"):
        Ports(http=wanted, grpc=wanted).free()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(UsageError, match="is no port"):
        Ports(metrics=port)


def test_only_a_port_by_number_counts_as_chosen():
    assert not Ports().chosen
    assert Ports(metrics=8002).chosen
