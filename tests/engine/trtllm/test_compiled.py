"""The engine lane end to end: a stand-in trtllm-build is driven, watched, resumed and checked."""

import json
import threading
import time
from dataclasses import replace

import pytest

from builders.engine.description import Description
from builders.engine.trtllm import compiled
from builders.engine.trtllm.compiled import compile_engines
from builders.engine.trtllm.sidecar import Sidecar, altered
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from fakes.trtllm.checkpoints import write_checkpoint, write_engine
from fakes.trtllm.settings import H100, host, request_for

FP8 = {"quant_algo": "FP8", "kv": "FP8"}


def build(checkpoint, request, out, *, progress=silent, here=None):
    return compile_engines(checkpoint, request, out, progress, here=here or host())


def test_an_engine_is_built_described_and_certified(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    built = build(checkpoint, request_for(), tmp_path / "engine")
    names = sorted(path.name for path in (tmp_path / "engine").iterdir())
    assert names == ["config.json", "engine.json", "enginesmith.json", "rank0.engine"]
    assert Sidecar.read(tmp_path / "engine") == built.sidecar
    assert altered(built.sidecar, tmp_path / "engine") == ()
    assert Description.read(tmp_path / "engine").runtime == "tensorrt"
    assert built.rewrites == ()
    assert built.differences == ()
    assert "Overriding paged_state to False" in built.warnings


def test_two_equal_builds_have_equal_records_but_for_the_engines(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    first = build(checkpoint, request_for(), tmp_path / "first").sidecar
    second = build(checkpoint, request_for(), tmp_path / "second").sidecar
    assert replace(first, files=second.files, config_digest="") == replace(second, config_digest="")
    assert not any(str(tmp_path) in word for word in first.argv)


def test_every_rank_is_built_by_a_process_of_its_own(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tp=2, pp=2, **FP8)
    request = request_for(tp=2, pp=2)
    built = build(checkpoint, request, tmp_path / "engine", here=host(4))
    assert {path.stem for path in (tmp_path / "engine").glob("*.engine")} == {
        "rank0", "rank1", "rank2", "rank3",
    }  # fmt: skip
    assert built.sidecar.world == 4
    assert built.sidecar.argv[:4] == ("mpirun", "--allow-run-as-root", "-n", "4")


def test_progress_grows_to_the_number_of_engines(tmp_path, trtllm):
    trtllm("FAKE_SLOW", "0.5")
    seen = []
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tp=2, **FP8)
    build(
        checkpoint,
        request_for(tp=2),
        tmp_path / "engine",
        here=host(2),
        progress=lambda what, done, total, *, unit="": seen.append((what, done, total)),
    )
    amounts = [done for _, done, _ in seen]
    assert amounts == sorted(amounts)
    assert any(0 < done < 2 for done in amounts)
    assert seen[-1][1:] == (2, 2)
    assert any("choose kernels" in what for what, _, _ in seen)


def test_a_second_run_builds_only_the_rank_that_failed(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tp=2, pp=2, **FP8)
    request = request_for(tp=2, pp=2, work=tmp_path / "work")
    trtllm("FAKE_FAIL_RANK", "2")
    trtllm("FAKE_SLOW", "0")
    with pytest.raises(ToolError, match="exited 1") as caught:
        build(checkpoint, request, tmp_path / "engine", here=host(4))
    assert "OutOfMemory" in str(caught.value)
    assert "smaller limits" in caught.value.hint
    (place,) = (tmp_path / "work").glob("*/engine")
    kept = {path.name: path.read_bytes() for path in place.glob("*.engine")}
    finished = {name: content for name, content in kept.items() if content}  # some were cut off
    assert "rank2.engine" not in finished
    trtllm("FAKE_FAIL_RANK", "")
    build(checkpoint, request, tmp_path / "again", here=host(4))
    for name, content in finished.items():
        assert (tmp_path / "again" / name).read_bytes() == content
    assert (tmp_path / "again" / "rank2.engine").is_file()
    assert not place.exists()


def test_an_engine_that_was_half_written_is_built_again(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    request = request_for(work=tmp_path / "work")
    trtllm("FAKE_HALF_RANK", "0")
    with pytest.raises(ToolError, match="exited -9"):
        build(checkpoint, request, tmp_path / "engine")
    (half,) = (tmp_path / "work").glob("*/engine/rank0.engine")
    assert half.read_bytes() == b"half of"
    trtllm("FAKE_HALF_RANK", "")
    build(checkpoint, request, tmp_path / "engine")
    assert (tmp_path / "engine" / "rank0.engine").read_bytes().startswith(b"engine of rank 0")


def test_a_checkpoint_that_changed_starts_over(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tp=2, **FP8)
    request = request_for(tp=2, work=tmp_path / "work")
    trtllm("FAKE_FAIL_RANK", "1")
    with pytest.raises(ToolError):
        build(checkpoint, request, tmp_path / "engine", here=host(2))
    (checkpoint / "rank0.safetensors").write_bytes(b"other weights")
    trtllm("FAKE_FAIL_RANK", "")
    build(checkpoint, request, tmp_path / "engine", here=host(2))
    assert len(list((tmp_path / "work").glob("*/engine"))) == 1  # what the first run left


def test_the_timing_cache_is_kept_for_this_gpu_and_tensorrt(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    request = request_for(work=tmp_path / "work")
    build(checkpoint, request, tmp_path / "one")
    (kept,) = (tmp_path / "work" / "timing").iterdir()
    assert kept.read_bytes() == b"timings of 90"
    build(checkpoint, replace(request, concurrency=4), tmp_path / "two")
    build(checkpoint, request, tmp_path / "three", here=host(tensorrt="10.15.0"))
    assert len(list((tmp_path / "work" / "timing").iterdir())) == 2


def test_an_engine_with_other_limits_than_asked_is_refused(tmp_path, trtllm):
    trtllm("FAKE_IGNORE_BATCH", "4")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    with pytest.raises(ToolError, match="max_batch_size: 4 instead of 8"):
        build(checkpoint, request_for(), tmp_path / "engine")


def test_an_engine_of_another_version_is_refused(tmp_path, trtllm):
    trtllm("FAKE_VERSION", "1.2.0")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    with pytest.raises(UsageError, match=r"built by TensorRT-LLM 1\.2\.0, not 1\.2\.1"):
        build(checkpoint, request_for(), tmp_path / "engine")


def test_predicted_changes_are_recorded_and_are_no_differences(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    request = request_for(overrides=(("reduce_fusion", "enable"), ("user_buffer", "enable")))
    built = build(checkpoint, request, tmp_path / "engine")
    assert [one.flag for one in built.rewrites] == ["reduce_fusion", "user_buffer"]
    assert built.differences == ()
    assert built.sidecar.changes[0] == "reduce_fusion: enable becomes disable (tp is 1)"


def test_interruption_stops_the_compiler_and_keeps_what_it_finished(tmp_path, trtllm):
    trtllm("FAKE_SLOW", "30")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)

    def interrupt(what, done, total, *, unit=""):
        if done > 0.1:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build(
            checkpoint, request_for(work=tmp_path / "work"), tmp_path / "engine",
            progress=interrupt,
        )  # fmt: skip
    assert time.monotonic() - began < 15
    assert list((tmp_path / "work").glob("*/build-000.log"))


def test_two_builds_of_the_same_engine_wait_for_each_other(tmp_path, trtllm):
    trtllm("FAKE_SLOW", "0.5")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    request = request_for(work=tmp_path / "work")
    threads = [
        threading.Thread(target=build, args=(checkpoint, request, tmp_path / name))
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all((tmp_path / name / "enginesmith.json").is_file() for name in ("one", "two"))


def test_a_failure_without_a_known_cause_shows_the_end_of_its_log(tmp_path, trtllm):
    trtllm("FAKE_HALF_RANK", "0")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    with pytest.raises(ToolError, match="Serializing engine to") as caught:
        build(checkpoint, request_for(), tmp_path / "engine")
    assert caught.value.hint.startswith("the whole log: ")


def test_an_exception_of_the_compiler_is_the_first_thing_told(tmp_path, trtllm):
    trtllm("FAKE_SM", "100")  # the machine looks like Hopper and is not
    checkpoint = write_checkpoint(tmp_path / "checkpoint", quant_algo="W4A16_AWQ")
    with pytest.raises(ToolError, match="RuntimeError: INT8/INT4 quantization is not supported"):
        build(checkpoint, request_for("int4_awq"), tmp_path / "engine")


def test_a_missing_program_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    with pytest.raises(ToolError, match="trtllm-build: no such program") as caught:
        build(checkpoint, request_for(), tmp_path / "engine")
    assert "image" in caught.value.hint


@pytest.mark.parametrize(
    ("made", "request_", "here", "reason"),
    [
        (FP8, request_for("int8_smoothquant"), host(), "quant_algo FP8"),
        (FP8, request_for(tp=2), host(2), "with tp 1, and 2"),
        (FP8, request_for(kv_cache=Format.BF16), host(), "a KV cache in fp8"),
        (FP8, request_for(), host(0), "1 ranks need 1 GPUs, and here are 0"),
        (FP8, request_for(tier="l40s"), host(), "SM89 cannot be built on NVIDIA H100"),
        (FP8, request_for(), host(tensorrt_llm="1.1.0"), "here is 1.1.0"),
        (FP8, request_for(), host(tensorrt_llm=""), "here is none"),
        (FP8, request_for(version="1.4.0rc1"), host(), "compiled engines ended"),
        (FP8 | {"architecture": "NoSuchForCausalLM"}, request_for(), host(), "knows no engine of"),
        (FP8, request_for(overrides=(("max_seqlen", "1"),)), host(), "has no option --max_seqlen"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_before_anything_starts(
    tmp_path, made, request_, here, reason
):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **made)
    with pytest.raises(PlanError) as caught:
        build(checkpoint, request_, tmp_path / "engine", here=here)
    assert any(reason in one.reason for one in caught.value.refusals), caught.value.refusals
    assert all(one.hint for one in caught.value.refusals)
    assert not (tmp_path / "engine").exists()


def test_an_engine_in_place_of_a_checkpoint_is_refused(tmp_path):
    engine = write_engine(tmp_path / "engine", **FP8)
    with pytest.raises(PlanError, match="needs a checkpoint, not an engine"):
        build(engine, request_for(), tmp_path / "out")


def test_the_room_door_needs_trtllm_settings(tmp_path):
    from builders.engine.description import EngineSettings

    with pytest.raises(UsageError, match="recipe, a GPU tier and a version"):
        compiled.build(tmp_path, EngineSettings(context=8), tmp_path / "out", silent)


def test_the_room_door_looks_at_the_machine(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    with pytest.raises(PlanError) as caught:
        compiled.build(checkpoint, request_for(), tmp_path / "out", silent)
    assert any("here are 0" in one.reason for one in caught.value.refusals)


def test_a_record_names_the_gpu_and_versions(tmp_path, trtllm):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **FP8)
    build(checkpoint, request_for(), tmp_path / "engine")
    data = json.loads((tmp_path / "engine" / "enginesmith.json").read_text())
    assert data["gpu"] == {"name": H100.name, "sm": 90, "memory_bytes": H100.memory_bytes}
    assert (data["tensorrt"], data["cuda"], data["driver"]) == ("10.14.1.48", "13.1", "590.44.01")
