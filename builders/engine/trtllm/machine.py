"""The machine we are on: its GPUs and driver through NVML, and what is installed beside us.

A machine without NVIDIA's library or driver is a machine without GPUs, not an error.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Final, Protocol, cast

# The digest of the container image, which nothing inside a container can see: whoever starts it
# says so (Dockerfile and scripts of this repository do).
CONTAINER: Final = "ENGINESMITH_CONTAINER"
_TENSORRT: Final = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")


class Memory(Protocol):
    """NVML's answer about a GPU's memory, in bytes."""

    @property
    def total(self) -> int:
        """All of it."""


class Nvml(Protocol):
    """What is asked of the module ``pynvml`` (package nvidia-ml-py)."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:
        """Open the driver."""

    def nvmlShutdown(self) -> None:
        """Close it."""

    def nvmlSystemGetDriverVersion(self) -> str:
        """Return a version such as 580.65.06."""

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        """Return 13010 for CUDA 13.1."""

    def nvmlDeviceGetCount(self) -> int:
        """Count GPUs."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        """Open one GPU."""

    def nvmlDeviceGetName(self, handle: object) -> str:
        """Return its product name."""

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        """Return its unique name."""

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> Sequence[int]:
        """Return major and minor."""

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:
        """Return its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: product name, compute capability as 90 for 9.0, memory in bytes."""

    name: str
    sm: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """GPUs that a program started here would see, and the versions around them ("" : none)."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    tensorrt_llm: str = ""
    tensorrt: str = ""
    container: str = ""


def machine(*, nvml: Nvml | None = None, env: Mapping[str, str] | None = None) -> Machine:
    """Look at the machine; ``nvml`` and ``env`` stand in for the real ones."""
    around = os.environ if env is None else env
    bare = Machine(
        tensorrt_llm=_version("tensorrt_llm"),
        tensorrt=next(filter(None, map(_version, _TENSORRT)), ""),
        container=around.get(CONTAINER, ""),
    )
    library = nvml or _library()
    if library is None:
        return bare
    try:
        library.nvmlInit()
    except library.NVMLError:
        return bare
    try:
        return replace(
            bare,
            gpus=_visible(library, around.get("CUDA_VISIBLE_DEVICES")),
            driver=library.nvmlSystemGetDriverVersion(),
            cuda=_cuda(library.nvmlSystemGetCudaDriverVersion()),
        )
    except library.NVMLError:
        return bare
    finally:
        library.nvmlShutdown()


def _library() -> Nvml | None:
    try:
        return cast("Nvml", importlib.import_module("pynvml"))
    except ImportError:
        return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _visible(library: Nvml, chosen: str | None) -> tuple[Gpu, ...]:
    """CUDA hides all GPUs from the first entry on that it does not know; NVML hides none."""
    handles = [library.nvmlDeviceGetHandleByIndex(at) for at in range(library.nvmlDeviceGetCount())]
    if chosen is None:
        return tuple(_gpu(library, handle) for handle in handles)
    seen = []
    for entry in (part.strip() for part in chosen.split(",")):
        handle = _named(library, handles, entry)
        if handle is None:
            break
        seen.append(_gpu(library, handle))
    return tuple(seen)


def _named(library: Nvml, handles: Sequence[object], entry: str) -> object | None:
    if entry.isdecimal():
        return handles[int(entry)] if int(entry) < len(handles) else None
    found = (h for h in handles if entry and library.nvmlDeviceGetUUID(h).startswith(entry))
    return next(found, None)


def _gpu(library: Nvml, handle: object) -> Gpu:
    major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=library.nvmlDeviceGetName(handle),
        sm=10 * major + minor,
        memory_bytes=library.nvmlDeviceGetMemoryInfo(handle).total,
    )
