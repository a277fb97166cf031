"""A server is ready only when it answered, and leaves nothing behind, however it ends."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from builders import serve
from builders.bundle import Tree
from builders.errors import ToolError
from builders.serve import http
from builders.serve.launch import last_words
from fakes import triton_repositories

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def regions(pid):
    return {path.name for path in Path("/dev/shm").glob(f"enginesmith_{pid}_*")}


@contextlib.contextmanager
def leaving_nothing(repository):
    """Check that the repository and the shared memory stay as they were, the scratch empty."""
    before = Tree.of(repository), regions(os.getpid())
    yield
    assert (Tree.of(repository), regions(os.getpid())) == before
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def gone(pid, seconds=20.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


def test_a_server_tells_where_it_listens_and_what_it_serves(server):
    assert (server.models, server.model, server.version) == (("echo",), "echo", "2.51.0")
    assert http.ready(server.http_url)
    assert server.alive()
    assert server.obituary() == ""


def test_it_listens_on_loopback_only(server):
    def listeners(name):
        rows = (line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:])
        return {tuple(row[1].split(":")) for row in rows if row[3] == "0A"}

    ports = (server.ports.http, server.ports.grpc, server.ports.metrics)
    hosts = {host for host, port in listeners("tcp") if int(port, 16) in ports}
    assert hosts == {"0100007F"}
    mapped = {host for host, port in listeners("tcp6") if int(port, 16) in ports}
    assert mapped <= {"0000000000000000FFFF00000100007F"}  # 127.0.0.1, as IPv6 writes it


@pytest.mark.parametrize(
    "path", ["/v2/logging", "/v2/trace/setting", "/v2/systemsharedmemory/status"]
)
def test_what_only_an_operator_needs_is_closed(server, path):
    with http._asked(server.http_url, "GET", path, timeout=5) as response:
        assert response.status == 403


def test_two_servers_run_side_by_side(server, echo_repository, tmp_path):
    with serve.tritonserver(echo_repository, log=tmp_path / "log", deadline=60) as second:
        assert http.generate(second.http_url, "echo", "two").text == "two"
        assert http.generate(server.http_url, "echo", "one").text == "one"
        os.kill(second.child.pid, signal.SIGKILL)
    assert http.generate(server.http_url, "echo", "one").text == "one"


def test_an_undisturbed_run_ends_cleanly_and_leaves_nothing(echo_repository, tmp_path):
    log = tmp_path / "logs" / "triton.log"
    with leaving_nothing(echo_repository):
        with serve.tritonserver(echo_repository, log=log, deadline=60) as server:
            pids = (server.child.pid, *server.workers)
        assert server.child.returncode == 0
        assert all(gone(pid) for pid in pids)
        assert not server.alive()
    assert "successfully unloaded 'echo'" in log.read_text(errors="replace")


def test_a_server_that_is_killed_says_so_with_the_end_of_its_log(echo_repository, tmp_path):
    async def ask(server):
        async with serve.endpoint(server)() as endpoint:
            return [chunk async for chunk in endpoint.stream("a", max_tokens=1)]

    with (
        leaving_nothing(echo_repository),
        serve.tritonserver(echo_repository, log=tmp_path / "log", deadline=60) as server,
    ):
        os.kill(server.child.pid, signal.SIGKILL)
        server.child.wait()
        with pytest.raises(ToolError, match=r"ended with -9(.|\n)*Started HTTPService") as caught:
            asyncio.run(ask(server))
        assert str(tmp_path / "log") in str(caught.value)
        assert not server.alive()


def test_a_model_whose_process_died_is_seen_though_triton_says_ready(echo_repository, tmp_path):
    with (
        leaving_nothing(echo_repository),
        serve.tritonserver(echo_repository, log=tmp_path / "log", deadline=60) as server,
    ):
        (worker,) = server.workers
        os.kill(worker, signal.SIGKILL)
        assert gone(worker)
        assert http.ready(server.http_url)
        assert not server.alive()
        assert "lost a model process" in server.obituary()
        os.kill(server.child.pid, signal.SIGKILL)


def test_a_port_in_use_is_said_at_once(echo_repository, tmp_path):
    with leaving_nothing(echo_repository), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        begun = time.monotonic()
        with (
            pytest.raises(ToolError, match=f"port {port} .*in use"),
            serve.tritonserver(echo_repository, log=tmp_path / "log", grpc_port=port),
        ):
            pass
    assert time.monotonic() - begun < 2
    assert not (tmp_path / "log").exists()


def test_a_port_that_another_program_takes_meanwhile_is_replaced(
    echo_repository, tmp_path, monkeypatch
):
    taken = socket.create_server(("127.0.0.1", 0))
    free = serve.launch.Ports.free
    rounds = []

    def late(self):
        found = free(self)
        rounds.append(found)
        return (
            found
            if rounds[1:]
            else serve.launch.Ports(
                http=taken.getsockname()[1], grpc=found.grpc, metrics=found.metrics
            )
        )

    monkeypatch.setattr(serve.launch.Ports, "free", late)
    with taken, serve.tritonserver(echo_repository, log=tmp_path / "log", deadline=60) as server:
        assert server.ports == rounds[1]
        os.kill(server.child.pid, signal.SIGKILL)


def test_a_model_that_cannot_load_is_an_error_with_its_reason(tmp_path):
    repository = triton_repositories.echo(tmp_path)
    (repository / "echo" / "1" / "model.py").write_text("import no_such_library\n")
    with (
        leaving_nothing(repository),
        pytest.raises(ToolError, match="No module named 'no_such_library'") as caught,
        serve.tritonserver(repository, log=tmp_path / "log", deadline=60),
    ):
        pass
    assert caught.value.hint == f"the whole log: {tmp_path / 'log'}"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise SystemExit(3)", "while starting"),
        ("import time; time.sleep(60)", "not ready within its deadline"),
    ],
)
def test_a_model_that_never_gets_ready_ends_the_start(tmp_path, broken, said):
    repository = triton_repositories.echo(tmp_path)
    (repository / "echo" / "1" / "model.py").write_text(broken)
    with (
        leaving_nothing(repository),
        pytest.raises(ToolError, match=said),
        serve.tritonserver(repository, log=tmp_path / "log", deadline=3),
    ):
        pass


def test_a_model_that_is_ready_but_cannot_answer_is_no_server(tmp_path):
    repository = triton_repositories.echo(tmp_path)
    model = repository / "echo" / "1" / "model.py"
    model.write_text(model.read_text().replace("words = prompt", "words = self.no_such_thing"))
    model.write_text(model.read_text().replace('f"do_{prompt}"', '"do_fail"'))
    with (
        pytest.raises(ToolError, match="ready but does not answer: echo: max_tokens must be"),
        serve.tritonserver(repository, log=tmp_path / "log", deadline=60),
    ):
        pass


def test_a_repository_without_a_model_that_speaks_is_no_server(tmp_path):
    repository = triton_repositories.echo(tmp_path)
    config = repository / "echo" / "config.pbtxt"
    config.write_text(config.read_text().replace('"text_input"', '"text_imput"'))
    with (
        pytest.raises(ToolError, match="none of its models takes text_input: echo"),
        serve.tritonserver(repository, log=tmp_path / "log", deadline=60),
    ):
        pass


def test_an_error_in_the_block_ends_the_server_and_comes_through(echo_repository, tmp_path):
    def fail(server):
        os.kill(server.child.pid, signal.SIGKILL)
        raise KeyError("ours")

    with (
        leaving_nothing(echo_repository),
        pytest.raises(KeyError, match="ours"),
        serve.tritonserver(echo_repository, log=tmp_path / "log", deadline=60) as server,
    ):
        fail(server)


ORPHAN = """
import os, signal, sys
from pathlib import Path
from builders import serve
with serve.tritonserver(Path(sys.argv[1]), log=Path(sys.argv[2]), deadline=60) as server:
    print(os.getpid(), server.child.pid, *server.workers, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_does_not_outlive_the_program_that_started_it(echo_repository, tmp_path):
    ended = subprocess.run(
        (sys.executable, "-c", ORPHAN, str(echo_repository), str(tmp_path / "log")),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    owner, *pids = [int(pid) for pid in ended.stdout.split()]
    assert ended.returncode == -signal.SIGKILL
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert regions(owner) == set()


def test_the_last_words_are_errors_and_plain_lines_without_tables(tmp_path):
    log = tmp_path / "log"
    noise = "E1124 06:39:58.1 8395 server.cc:241] CudaDriverHelper has not been initialized.\n"
    error = "E1124 06:39:58.2 8395 model_lifecycle.cc:642] failed to load 'demo'\n"
    table = "+---+\n| a |\n+---+\n\n" * 10
    plain = "".join(f"I line {number}\n" for number in range(20))
    log.write_text(noise + error + table + plain + "\0\0\n")
    lines = last_words(log).splitlines()
    assert lines[0] == error.strip()
    assert lines[1:] == [f"I line {number}" for number in range(5, 20)]
    assert not re.search(r"CudaDriver|\+|\|", last_words(log))
