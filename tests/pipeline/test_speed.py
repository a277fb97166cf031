"""Servers are judged by their URL whatever they speak: here a real Triton over gRPC."""

import json

import pytest

from builders import cli, serve
from fakes import triton_repositories


@pytest.mark.slow
def test_a_triton_is_measured_against_itself_over_grpc(capsys, tmp_path):
    repository = triton_repositories.echo(tmp_path / "echo")
    keys = ("pairs=4", "requests=6", "warm_up=1", "output_tokens=8", "most_words=16",
            "client_share=1e6", "ttft_margin=9.0", "itl_margin=99.0")  # fmt: skip
    sets = [part for key in keys for part in ("--set", key)]
    with serve.tritonserver(repository, log=tmp_path / "log", deadline=60) as server:
        url = f"grpc://{server.grpc_url}"
        code = cli.run(["latency", url, "--model", server.model, *sets, "--json"])
        found = json.loads(capsys.readouterr().out)
        assert code in {0, 11}
        assert {one["gate"] for one in found["verdicts"]} == {"latency.ttft_p50", "latency.itl_p50"}
        assert cli.run(["latency", url, "--model", "nowhere", *sets]) == 5
    assert "nowhere" in capsys.readouterr().err
