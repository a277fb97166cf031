"""An engine's record, and what it says about another machine."""

import json
from dataclasses import replace

import pytest

from builders.bundle import Tree
from builders.engine.trtllm import sidecar as module
from builders.engine.trtllm.machine import Gpu, Machine
from builders.engine.trtllm.sidecar import FILE, Sidecar, altered, certify, mismatches
from builders.errors import UsageError
from builders.tiers import GIB
from fakes.trtllm.checkpoints import write_engine
from fakes.trtllm.settings import H100, host

H200 = Gpu(name="NVIDIA H200", sm=90, memory_bytes=141 * GIB)
L4 = Gpu(name="NVIDIA L4", sm=89, memory_bytes=24 * GIB)


def made(**changed) -> Sidecar:
    base = Sidecar(
        lane="tensorrt", version="1.2.1", world=1, made_on=host(), argv=("trtllm-build",),
        tuning="2026.11", config_digest="0" * 64, changes=(), files=Tree(()),
    )  # fmt: skip
    return replace(base, **changed)


def test_what_is_written_is_read_back(tmp_path):
    engine = write_engine(tmp_path / "engine")
    written = certify(made(changes=("a becomes b",)), engine)
    assert Sidecar.read(engine) == written
    assert [one.path for one in written.files.artifacts] == ["config.json", "rank0.engine"]


def test_equal_records_are_equal_bytes(tmp_path):
    engine = write_engine(tmp_path / "engine")
    certify(made(), engine)
    first = (engine / FILE).read_bytes()
    certify(made(), engine)
    assert (engine / FILE).read_bytes() == first


def test_the_machine_it_was_made_on_can_run_it():
    assert mismatches(made(), host()) == ()
    assert mismatches(made(world=2), host(4)) == ()


@pytest.mark.parametrize(
    ("sidecar", "here", "reason", "remedy"),
    [
        (made(), Machine(), "this machine has no GPU", "NVIDIA H100"),
        (made(world=2), host(), "has 2 ranks, and this machine 1 GPUs", "smaller tp"),
        (made(), host(gpus_=(L4,)), "is for SM90", "build an engine for NVIDIA L4"),
        (made(), host(gpus_=(H200,)), "was tuned on NVIDIA H100", "build an engine on NVIDIA H200"),
        (
            made(),
            host(gpus_=(replace(H100, memory_bytes=40 * GIB),)),
            "81920 MiB of GPU memory",
            "whole GPU",
        ),
        (
            made(),
            host(tensorrt_llm="1.1.0"),
            "needs TensorRT-LLM 1.2.1, and here is 1.1.0",
            "26.07",
        ),
        (made(), host(tensorrt_llm=""), "here is none", "tritonserver:26.07"),
        (made(), host(tensorrt="10.15.0"), "built with TensorRT 10.14.1.48", "26.07"),
        (made(), host(cuda="12.9", driver="570.1"), "built under CUDA 13.1", "590.44.01"),
        (
            made(made_on=host(container="image@sha256:1")),
            host(container="image@sha256:2"),
            "built in image@sha256:1",
            "serve it in image@sha256:1",
        ),
    ],
)
def test_a_machine_that_cannot_run_it_says_why_and_what_to_do(sidecar, here, reason, remedy):
    found = mismatches(sidecar, here)
    assert any(reason in one.reason and remedy in one.hint for one in found), found


def test_a_few_megabytes_less_of_the_same_gpu_are_the_same_gpu():
    here = host(gpus_=(replace(H100, memory_bytes=H100.memory_bytes - (100 << 20)),))
    assert mismatches(made(), here) == ()


def test_every_gpu_that_a_rank_would_use_counts():
    assert mismatches(made(world=2), host(gpus_=(H100, L4)))
    assert mismatches(made(world=1), host(gpus_=(H100, L4))) == ()


def test_the_llm_api_compiles_nothing_and_asks_for_less():
    tier = Gpu(name="", sm=90, memory_bytes=0)
    loaded = made(lane="llmapi", made_on=Machine(gpus=(tier,), tensorrt_llm="1.2.1"))
    assert mismatches(loaded, host(gpus_=(H200,), tensorrt="11.0", cuda="12.9")) == ()
    (only,) = mismatches(loaded, host(gpus_=(L4,)))
    assert "SM89" in only.reason
    (lost,) = mismatches(loaded, Machine())
    assert "a GPU of SM90" in lost.reason


def test_a_version_that_no_triton_image_carries_names_tensorrt_llms_own():
    (only,) = mismatches(made(version="1.3.0rc20"), host())
    assert "tensorrt-llm/release:1.3.0rc20" in only.hint


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda at: (at / "rank0.engine").write_bytes(b"other"), "is not the file that was made"),
        (lambda at: (at / "rank0.engine").unlink(), "is missing"),
        (lambda at: (at / "rank1.engine").write_bytes(b"new"), "does not belong"),
    ],
)
def test_a_file_that_changed_is_named(tmp_path, harm, reason):
    engine = write_engine(tmp_path / "engine")
    written = certify(made(), engine)
    assert altered(written, engine) == ()
    harm(engine)
    (only,) = altered(written, engine)
    assert reason in only.reason
    assert only.hint


def test_an_engine_without_a_record_is_pointed_to_adoption(tmp_path):
    engine = write_engine(tmp_path / "engine")
    with pytest.raises(UsageError, match="nobody knows which GPU") as caught:
        Sidecar.read(engine)
    assert "adopt" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2}',
        "not json",
        '{"schema": 1}',
        '{"schema": NaN}',
        "[" * 100_000,
    ],
)
def test_a_broken_record_is_a_usage_error_that_names_the_file(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match=FILE) as caught:
        Sidecar.read(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("gpu", {}), ("gpu", 3), ("files", {"a": {}}), ("files", []), ("argv", "x"), ("world", 0),
     ("world", True), ("version", None), ("unknown", 1)],
)  # fmt: skip
def test_a_record_with_one_wrong_key_is_refused(tmp_path, key, value):
    engine = write_engine(tmp_path / "engine")
    certify(made(), engine)
    data = json.loads((engine / FILE).read_text()) | {key: value}
    (engine / FILE).write_text(json.dumps(data))
    with pytest.raises(UsageError, match=FILE):
        Sidecar.read(engine)


def test_the_machine_is_reached_through_the_record_too():
    assert module.machine is not None
