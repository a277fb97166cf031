"""A server's command line: closed to everybody but its clients, one process a rank, offline."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from builders.errors import ToolError, UsageError
from builders.serve import hosting, triton
from builders.serve.hosting import Hosting, Start
from builders.serve.ports import Ports
from builders.serve.triton import TritonRuntime

START = Start(
    binary=Path("/opt/tritonserver/bin/tritonserver"),
    repository=Path("/repo"),
    backends=Path("/opt/tritonserver/backends"),
    regions="enginesmith_7_ab_",
    secret="s3cret",
)
PORTS = Ports(http=8000, grpc=8001, metrics=8002)


def segments(words):
    found = [[]]
    for word in words:
        found.append([]) if word == ":" else found[-1].append(word)
    return found


def test_one_process_listens_on_loopback_and_closes_what_only_operators_need():
    words = hosting.argv(START, Hosting(), PORTS)
    assert words[0] == "/opt/tritonserver/bin/tritonserver"
    assert {
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1",
        "--http-port=8000", "--grpc-port=8001", "--metrics-port=8002",
        "--model-control-mode=none", "--disable-auto-complete-config",
    } <= set(words)  # fmt: skip
    for way in ("--http-restricted-api", "--grpc-restricted-protocol"):
        (closed,) = [word for word in words if word.startswith(way)]
        assert closed.endswith("=shared-memory,model-repository,trace,logging:admin=s3cret")


def test_metrics_stay_on_loopback_where_a_service_is_opened():
    words = hosting.argv(START, Hosting(host="0.0.0.0"), PORTS)
    assert "--http-address=0.0.0.0" in words
    assert "--metrics-address=127.0.0.1" in words
    assert Hosting(host="0.0.0.0").reached == "127.0.0.1"
    assert Hosting(host="10.0.0.7").reached == "10.0.0.7"


def test_each_rank_of_a_compiled_engine_is_a_process_of_one_mpirun():
    words = hosting.argv(START, Hosting(ranks=4), PORTS)
    ranks = segments(words)
    assert words[:2] == ("mpirun", "--allow-run-as-root")
    assert [rank[rank.index("-n") : rank.index("-n") + 2] for rank in ranks] == [["-n", "1"]] * 4
    for number, rank in enumerate(ranks[1:], start=1):
        assert "--model-control-mode=explicit" in rank
        assert "--load-model=tensorrt_llm" in rank
        assert {"--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"} <= set(rank)
        assert f"--backend-config=python,shm-region-prefix-name=enginesmith_7_ab_{number}_" in rank
        assert not any("s3cret" in word or "-port=" in word for word in rank)
    prefixes = {word for rank in ranks for word in rank if "shm-region-prefix" in word}
    assert len(prefixes) == 4


def test_auto_completion_is_on_only_where_it_was_asked_for():
    assert "--disable-auto-complete-config" not in hosting.argv(
        START, Hosting(auto_complete=True), PORTS
    )


def test_a_served_release_fetches_nothing_and_tells_nobody():
    made = hosting.environment({"PYTHONOPTIMIZE": "1", "HOME": "/h", "HF_HUB_OFFLINE": "0"})
    assert "PYTHONOPTIMIZE" not in made  # TensorRT-LLM's checks of messages are assertions
    assert made["HOME"] == "/h"
    assert {
        made[n] for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRTLLM_NO_USAGE_STATS")
    } == {"1"}


@pytest.mark.parametrize(
    "given", [{"ranks": 0}, {"host": "example.org"}, {"host": ""}, {"host": "a b"}]
)
def test_what_cannot_host_is_refused(given):
    with pytest.raises(UsageError):
        Hosting(**given)


def test_the_wheel_s_server_does_not_leave_loopback():
    with pytest.raises(ToolError, match=r"known flaws and does not listen on 0\.0\.0\.0"):
        Hosting(host="0.0.0.0").located()


@pytest.fixture
def container(tmp_path):
    """A machine that looks like NVIDIA's image."""
    for name in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return replace(TritonRuntime.locate(tmp_path), stub=Path(os.path.realpath("/bin/true")))


@pytest.mark.parametrize(("tag", "refused"), [
    ("25.06", True), ("24.10", True), ("25.07", False), ("26.04", False), ("", False),
])  # fmt: skip
def test_an_image_with_known_flaws_is_not_served(container, monkeypatch, tag, refused):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", tag)
    found = [one for one in container.problems() if one.reason.startswith("Triton ")]
    assert bool(found) == refused
    if refused:
        assert "CVE-2025-23310" in found[0].reason
        assert "25.07 or newer" in found[0].hint


def test_an_unsafe_tensorrt_llm_is_not_served(container, monkeypatch):
    versions = {"tensorrt_llm": "0.17.0", "numpy": "1.26.4"}
    monkeypatch.setattr(triton.metadata, "version", lambda name: versions[name])
    found = [one for one in container.problems() if one.reason.startswith("TensorRT-LLM")]
    assert "0.17.0" in found[0].reason
    assert "0.18.2 or newer" in found[0].hint
