"""Finds a tritonserver on this machine, and says what is missing before it is started.

Two are known: the one of NVIDIA's container, and the one inside the wheel ``nvidia-pytriton``
(version 2.51, container 24.10), which is started directly: pytriton itself is never imported.
"""

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from builders import ledger, process
from builders.errors import Refusal, ToolError

SYSTEM: Final = Path("/opt/tritonserver")
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps tensors
_BUNDLE_PYTHONS: Final = ((3, 11), (3, 12))
_SHARED_MEMORY_BYTES: Final = 32 << 20  # 1 MiB an instance to begin with, and room to grow
_TAG: Final = "NVIDIA_TRITON_SERVER_VERSION"  # the tag of NVIDIA's image, set inside it
_PRODUCTS: Final = {"triton": "Triton", "trtllm": "TensorRT-LLM"}
_STUB: Final = "triton_python_backend_stub"
_INSTALL: Final = "pip install 'enginesmith[triton]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonRuntime:
    """The files of one tritonserver; ``libraries`` is what its Python backend links against."""

    binary: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]
    bundled: bool

    @classmethod
    def locate(cls, system: Path = SYSTEM) -> Self:
        """Take the container's server where there is one, else the wheel's."""
        if (system / "bin" / "tritonserver").is_file():
            return cls(
                binary=system / "bin" / "tritonserver",
                backends=system / "backends",
                stub=system / "backends" / "python" / _STUB,
                libraries=(system / "lib",),
                bundled=False,
            )
        spec = find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise ToolError(
                "no Triton Inference Server on this machine",
                hint=f"{_INSTALL} with Python 3.11 or 3.12, or work in NVIDIA's Triton container",
            )
        return cls._bundle(Path(spec.origin).parent)

    @classmethod
    def _bundle(cls, package: Path) -> Self:
        root = package / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return cls(
            binary=root / "bin" / "tritonserver",
            backends=root / "backends",
            stub=root / "python_backend_stubs" / version / _STUB,
            libraries=(package.parent / "nvidia_pytriton.libs",),
            bundled=True,
        )

    def problems(self) -> tuple[Refusal, ...]:
        """Return everything that would keep the server from answering; empty when it can."""
        checks = (
            self._python,
            self._numpy,
            self._interpreter,
            self._links,
            self._flaws,
            _shared_memory,
        )
        return tuple(problem for check in checks for problem in check())

    def preflight(self) -> None:
        """Raise the first problem; a stub that cannot link would hang the server, not fail."""
        problems = self.problems()
        if problems:
            raise ToolError(problems[0].reason, hint=problems[0].hint)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return ``env`` with this Python first, and with the libraries that the stub needs."""
        libraries = [str(path) for path in (*self.libraries, _python_libraries())]
        ours = {
            # The stub's interpreter is the first python3 on PATH; its prefix is where it is found.
            "PATH": _joined(str(_scripts()), env.get("PATH", "")),
            "LD_LIBRARY_PATH": _joined(*libraries, env.get("LD_LIBRARY_PATH", "")),
        }
        return {key: value for key, value in env.items() if key != "PYTHONHOME"} | ours

    def lay_out(self, directory: Path) -> Path:
        """Return the backend directory; the wheel's is made in ``directory``, its stub included.

        Links, not copies: the wheel's libraries find each other relative to where they really lie.
        """
        if not self.bundled:
            return self.backends
        python = directory / "python"
        python.mkdir(parents=True)
        parts = (path for path in (self.backends / "python").iterdir() if path.is_file())
        for path in (*parts, self.stub):
            (python / path.name).symlink_to(path)
        return directory

    def _python(self) -> Iterator[Refusal]:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.bundled and sys.version_info[:2] not in _BUNDLE_PYTHONS:
            yield Refusal(
                f"the Triton of nvidia-pytriton cannot run models in Python {version}",
                "make the environment with Python 3.11 or 3.12",
            )
        elif not self.stub.is_file():
            yield Refusal(f"{self.stub}: no such file", f"{_INSTALL} --force-reinstall")

    def _numpy(self) -> Iterator[Refusal]:
        """The wheel's stub answers float tensors of numpy 2 with no bytes and no error."""
        try:
            version = metadata.version("numpy")
        except metadata.PackageNotFoundError:
            yield Refusal("numpy is not installed", _INSTALL)
            return
        if self.bundled and int(version.partition(".")[0]) >= 2:
            yield Refusal(
                f"numpy {version} makes the Triton of nvidia-pytriton answer wrongly",
                "pip install 'numpy<2'",
            )

    def _interpreter(self) -> Iterator[Refusal]:
        """The stub takes the first python3 on PATH, which must be this very environment's."""
        python = _scripts() / "python3"
        if not python.exists():
            yield Refusal(
                f"{python}: no such file, so Triton would run another Python",
                f"ln -s {Path(sys.executable).name} {python}",
            )
        elif python.resolve() != Path(sys.executable).resolve():
            yield Refusal(
                f"{python} is not the Python that runs now ({sys.executable})",
                "run enginesmith from a virtual environment: python -m venv .venv",
            )

    def _flaws(self) -> Iterator[Refusal]:
        """An image with flaws that are known and mended is not served; the wheel is, on loopback.

        What cannot say its version is not judged: Triton's own images always say it.
        """
        if self.bundled:
            return
        installed = {"triton": os.environ.get(_TAG, ""), "trtllm": _installed("tensorrt_llm")}
        for product, version in installed.items():
            for flaw in ledger.unsafe(product, version) if version else ():
                name, safe = _PRODUCTS[product], ledger.minimum(product)
                yield Refusal(
                    f"{name} {version}: {flaw.what} ({', '.join(flaw.cves)})",
                    f"serve in an image with {name} {safe} or newer",
                )

    def _links(self) -> Iterator[Refusal]:
        if not self.stub.is_file():
            return
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch, "ldd")
            process.run(("ldd", str(self.stub)), log=log, env=self.environment(os.environ))
            linked = log.read_text(encoding="utf-8")
        for name in re.findall(r"^\s*(\S+) => not found", linked, re.MULTILINE):
            yield Refusal(f"Triton's Python backend needs {name}, which is not found", _mend(name))


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _shared_memory() -> Iterator[Refusal]:
    if not SHARED_MEMORY.is_dir():
        yield Refusal(f"{SHARED_MEMORY} is missing", f"mount -t tmpfs tmpfs {SHARED_MEMORY}")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < _SHARED_MEMORY_BYTES:
        yield Refusal(
            f"{SHARED_MEMORY} has {free >> 20} MiB free, Triton's Python backend needs "
            f"{_SHARED_MEMORY_BYTES >> 20}",
            "remove what is left there, or give the container more (docker run --shm-size=1g)",
        )


def _mend(library: str) -> str:
    if library.startswith("libpython"):
        return (
            f"use a Python built with --enable-shared (Debian: apt install "
            f"{library.partition('.so')[0]})"
        )
    return f"{_INSTALL} --force-reinstall"


def _scripts() -> Path:
    return Path(sys.executable).parent


def _python_libraries() -> Path:
    return Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix)


def _joined(*paths: str) -> str:
    return os.pathsep.join(path for path in paths if path)
