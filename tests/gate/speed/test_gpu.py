"""What a GPU does while something is timed is noted, and a machine without one is no error."""

import sys
import time

import pytest

from builders.gate.speed import gpu
from fakes.nvml import Nvml


@pytest.fixture
def install(monkeypatch):
    def installed(library):
        monkeypatch.setitem(sys.modules, "pynvml", library)
        monkeypatch.setattr(gpu, "_PERIOD_SECONDS", 0.005)
        return library

    return installed


def looked(seconds=0.1):
    with gpu.watched() as seen:
        time.sleep(seconds)
    return [one.as_json() for one in seen]


def test_clocks_reasons_and_errors_are_noted_while_it_is_busy(install):
    library = install(
        Nvml(
            {"busy": 0, "clock": 300, "errors": 2},
            {"clock": 1500, "reasons": 0x1, "errors": 2},
            {"clock": 1400, "reasons": 0x40 | 0x4, "errors": 3, "celsius": 88, "processes": 2},
        )
    )
    (seen,) = looked()
    assert seen["clock_mhz"] == [1400, 1500]
    assert seen["reasons"] == ["hardware thermal slowdown", "power cap"]
    assert (seen["errors"], seen["celsius"], seen["processes"]) == (1, 88, 2)
    assert library.open == 0


def test_a_steady_gpu_gives_no_cause_for_doubt(install):
    install(Nvml({"clock": 1500}))
    seen = looked()
    assert gpu.faults(seen) == gpu.alarms(seen) == []


def test_a_gpu_that_counts_no_errors_is_watched_all_the_same(install):
    install(Nvml({"clock": 1500}, counts_errors=False))
    assert looked()[0]["clock_mhz"] == [1500, 1500]


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ({"reasons": 0x8}, "Fake 100 throttled: hardware slowdown"),
        ({"reasons": 0x20}, "Fake 100 throttled: software thermal slowdown"),
        ({"reasons": 0x40}, "Fake 100 throttled: hardware thermal slowdown"),
        ({"reasons": 0x80}, "Fake 100 throttled: power brake"),
    ],
)
def test_throttling_is_a_fault(install, step, fault):
    install(Nvml(step))
    assert gpu.faults(looked()) == [fault]


def test_a_memory_error_is_a_fault_and_a_power_cap_is_none(install):
    install(Nvml({"busy": 0}, {"errors": 1, "reasons": 0x4}))
    assert gpu.faults(looked()) == ["Fake 100 had 1 memory errors it could not correct"]


def test_a_wandering_clock_and_company_are_told(install):
    install(Nvml({"clock": 1500}, {"clock": 1560, "processes": 3}))
    assert gpu.alarms(looked()) == [
        "Fake 100 ran at 1500 to 1560 MHz",
        "Fake 100 had 3 processes on it",
    ]


def test_a_machine_without_nvml_says_so(install, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.absent() == "pynvml is not installed"
    assert looked(0) == []
    install(Nvml({}, broken="NVML Shared Library Not Found"))
    assert gpu.absent() == "NVML Shared Library Not Found"
    assert looked(0) == []
    install(Nvml({}))
    assert gpu.absent() == ""


def test_the_watch_ends_with_its_block_even_on_failure(install):
    library = install(Nvml({}))
    with pytest.raises(ValueError, match="no"), gpu.watched():
        raise ValueError("no")
    assert library.open == 0
