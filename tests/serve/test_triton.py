"""A machine that cannot run Triton is told so before anything starts, with what mends it."""

import os
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from builders import serve
from builders.errors import ToolError
from builders.serve import triton
from builders.serve.triton import TritonRuntime


class Version(NamedTuple):
    major: int
    minor: int
    micro: int


class Usage(NamedTuple):
    free: int


@pytest.fixture
def runtime(tmp_path):
    return TritonRuntime.locate(tmp_path / "no-container")


def reasons(runtime):
    return [problem.reason for problem in runtime.problems()]


def test_the_wheel_s_server_is_found_without_importing_pytriton(runtime):
    assert runtime.bundled
    assert runtime.binary.is_file()
    assert "pytriton" not in sys.modules


def test_this_machine_has_no_problem(runtime):
    assert runtime.problems() == ()
    serve.preflight()


def test_a_container_s_server_comes_before_the_wheel_s(tmp_path):
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.touch()
    found = TritonRuntime.locate(tmp_path)
    assert (found.bundled, found.binary) == (False, binary)
    assert found.lay_out(tmp_path / "mine") == tmp_path / "backends"


def test_a_machine_without_a_server_is_told_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="no Triton") as caught:
        TritonRuntime.locate(tmp_path)
    assert "pip install 'enginesmith[triton]'" in caught.value.hint


def test_a_python_that_the_wheel_cannot_run_is_named(runtime, monkeypatch):
    monkeypatch.setattr(sys, "version_info", Version(3, 13, 0))
    (problem, *_) = runtime.problems()
    assert "Python 3.13" in problem.reason
    assert "3.11 or 3.12" in problem.hint


def test_a_container_s_python_is_the_container_s_affair(runtime, monkeypatch):
    monkeypatch.setattr(sys, "version_info", Version(3, 13, 0))
    assert not any("Python 3.13" in reason for reason in reasons(replace(runtime, bundled=False)))


def test_numpy_2_is_refused_because_it_would_answer_wrongly(runtime, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.0")
    (problem,) = runtime.problems()
    assert "numpy 2.1.0" in problem.reason
    assert problem.hint == "pip install 'numpy<2'"
    assert reasons(replace(runtime, bundled=False)) == []


def test_a_missing_numpy_is_named(runtime, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert reasons(runtime) == ["numpy is not installed"]


def test_a_missing_stub_is_named(runtime, tmp_path):
    missing = tmp_path / "stub"
    assert reasons(replace(runtime, stub=missing)) == [f"{missing}: no such file"]


def test_a_stub_that_cannot_link_is_found_before_it_hangs_the_server(runtime, tmp_path):
    moved = tmp_path / "triton_python_backend_stub"
    shutil.copy(runtime.stub, moved)  # away from its libraries
    (problem, *_) = replace(runtime, stub=moved, libraries=()).problems()
    assert "libcudart" in problem.reason
    assert "not found" in problem.reason
    with pytest.raises(ToolError, match="libcudart"):
        replace(runtime, stub=moved, libraries=()).preflight()


def test_a_python_without_a_shared_library_is_told_which_package_has_it():
    hint = triton._mend("libpython3.11.so.1.0")
    assert "--enable-shared" in hint
    assert "apt install libpython3.11)" in hint


def test_another_python_first_on_the_path_is_refused(runtime, tmp_path, monkeypatch):
    for name in ("python", "python3"):
        (tmp_path / name).symlink_to("/bin/true" if name == "python3" else sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert f"{tmp_path / 'python3'} is not the Python that runs now" in reasons(runtime)[0]


def test_a_script_folder_without_python3_is_refused(runtime, tmp_path, monkeypatch):
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (problem,) = runtime.problems()
    assert "would run another Python" in problem.reason
    assert problem.hint == f"ln -s python {tmp_path / 'python3'}"


def test_too_little_shared_memory_is_told_with_the_number(runtime, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(8 << 20))
    assert reasons(runtime) == ["/dev/shm has 8 MiB free, Triton's Python backend needs 32"]


def test_a_machine_without_shared_memory_is_told_so(runtime, monkeypatch, tmp_path):
    monkeypatch.setattr(triton, "SHARED_MEMORY", tmp_path / "shm")
    assert reasons(runtime) == [f"{tmp_path / 'shm'} is missing"]


def test_the_stub_lies_beside_its_backend_by_links_into_the_wheel(runtime, tmp_path):
    laid = runtime.lay_out(tmp_path / "backends")
    names = {path.name for path in (laid / "python").iterdir()}
    assert {"libtriton_python.so", triton._STUB, "triton_python_backend_utils.py"} == names
    assert all(path.is_symlink() for path in (laid / "python").iterdir())


def test_this_environment_comes_first_for_the_server(runtime):
    env = runtime.environment({"PATH": "/bin", "PYTHONHOME": "/x", "HF_HUB_OFFLINE": "1"})
    first, *rest = env["PATH"].split(os.pathsep)
    assert (Path(first), rest) == (Path(sys.executable).parent, ["/bin"])
    assert str(runtime.libraries[0]) in env["LD_LIBRARY_PATH"].split(os.pathsep)
    assert "PYTHONHOME" not in env
    assert env["HF_HUB_OFFLINE"] == "1"


def test_an_empty_search_path_stays_without_empty_entries(runtime):
    env = runtime.environment({})
    for name in ("PATH", "LD_LIBRARY_PATH"):
        assert all(env[name].split(os.pathsep)), "an empty entry stands for the current folder"
