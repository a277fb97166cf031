"""Watch the GPUs of this machine while something is timed. Needs no NVML: its absence is noted.

A GPU that slows itself down for heat or for its power supply times the cooling, not the engine.
"""

import importlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Self

_PERIOD_SECONDS: Final = 0.2
_BUSY_PERCENT: Final = 10
_WIDEST_CLOCK_RANGE: Final = 0.03
# nvml.h, nvmlClocksEventReasons. Ordinary reasons (idle, set by the user, a display) are left out.
_REASONS: Final[Mapping[str, int]] = {
    "power cap": 0x4,
    "hardware slowdown": 0x8,
    "software thermal slowdown": 0x20,
    "hardware thermal slowdown": 0x40,
    "power brake": 0x80,
}
_HARMLESS: Final = frozenset({"power cap"})  # how a GPU at full load keeps to its limit


@dataclass(slots=True, kw_only=True)
class Gpu:
    """What was seen of one GPU: its SM clock in MHz while busy, why it slowed down, its errors.

    ``others`` is how many processes computed on it at most; ``errors`` how many memory errors
    that could not be corrected came while it was watched.
    """

    name: str
    clocks: list[int] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    processes: int = 0
    errors: int = 0
    celsius: int = 0

    def as_json(self) -> dict[str, object]:
        """Return what goes into evidence."""
        return {
            "name": self.name,
            "clock_mhz": [min(self.clocks), max(self.clocks)] if self.clocks else [],
            "reasons": sorted(self.reasons),
            "processes": self.processes,
            "errors": self.errors,
            "celsius": self.celsius,
        }


class Nvml:
    """NVML, where this machine has it."""

    def __init__(self, library: ModuleType) -> None:
        self._library: Any = library
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        self._handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    @classmethod
    def open(cls) -> Self | str:
        """Open it, or say why it cannot be opened."""
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            return "pynvml is not installed"
        try:
            return cls(library)
        except library.NVMLError as error:
            return str(error)

    def names(self) -> list[str]:
        """Return the names of all GPUs."""
        return [str(self._library.nvmlDeviceGetName(handle)) for handle in self._handles]

    def look(self, seen: Sequence[Gpu], before: Sequence[int]) -> None:
        """Note how each GPU fares now; what one cannot tell is passed over."""
        for gpu, handle, errors in zip(seen, self._handles, before, strict=True):
            with suppress(self._library.NVMLError):
                self._look(gpu, handle, errors)

    def errors(self) -> list[int]:
        """Return how many memory errors each GPU could not correct so far; 0 where none tells."""
        return [self._errors(handle) for handle in self._handles]

    def close(self) -> None:
        """Give NVML back."""
        self._library.nvmlShutdown()

    def _look(self, gpu: Gpu, handle: object, errors: int) -> None:
        library = self._library
        if library.nvmlDeviceGetUtilizationRates(handle).gpu < _BUSY_PERCENT:
            return
        bits = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        gpu.reasons |= {name for name, bit in _REASONS.items() if bits & bit}
        gpu.clocks.append(library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM))
        kind = library.NVML_TEMPERATURE_GPU
        gpu.celsius = max(gpu.celsius, library.nvmlDeviceGetTemperature(handle, kind))
        gpu.errors = self._errors(handle) - errors
        running = library.nvmlDeviceGetComputeRunningProcesses(handle)
        gpu.processes = max(gpu.processes, len(running))

    def _errors(self, handle: object) -> int:
        library = self._library
        try:
            return int(
                library.nvmlDeviceGetTotalEccErrors(
                    handle, library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
                )
            )
        except library.NVMLError:
            return 0


@contextmanager
def watched() -> Iterator[list[Gpu]]:
    """Watch all GPUs while the block runs; nothing is seen where there is no NVML."""
    nvml = Nvml.open()
    if isinstance(nvml, str):
        yield []
        return
    seen, before, over = [Gpu(name=name) for name in nvml.names()], nvml.errors(), threading.Event()

    def watch() -> None:
        while not over.wait(_PERIOD_SECONDS):
            nvml.look(seen, before)

    thread = threading.Thread(target=watch, name="gpu-watch", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        nvml.close()


def absent() -> str:
    """Say why no GPU can be watched; nothing where some can."""
    nvml = Nvml.open()
    if isinstance(nvml, str):
        return nvml
    nvml.close()
    return ""


def faults(gpus: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what makes times worthless: a GPU that throttled, or whose memory failed."""
    found = []
    for gpu in gpus:
        reasons = [reason for reason in gpu["reasons"] if reason not in _HARMLESS]
        if reasons:
            found.append(f"{gpu['name']} throttled: {', '.join(reasons)}")
        if gpu["errors"]:
            found.append(f"{gpu['name']} had {gpu['errors']} memory errors it could not correct")
    return found


def alarms(gpus: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what makes times doubtful: a clock that wandered, other work on the same GPU."""
    found = []
    for gpu in gpus:
        if gpu["clock_mhz"] and (gpu["clock_mhz"][1] / gpu["clock_mhz"][0] - 1) > (
            _WIDEST_CLOCK_RANGE
        ):
            low, high = gpu["clock_mhz"]
            found.append(f"{gpu['name']} ran at {low} to {high} MHz")
        if gpu["processes"] > 2:  # the two servers that take turns may share it
            found.append(f"{gpu['name']} had {gpu['processes']} processes on it")
    return found
