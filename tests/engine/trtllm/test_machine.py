"""The machine is read through NVML; one without a GPU is a machine without GPUs."""

from types import SimpleNamespace

import pytest

from builders.engine.trtllm import machine as module
from builders.engine.trtllm.machine import Gpu, Machine, machine
from builders.tiers import GIB

H100 = Gpu(name="NVIDIA H100 80GB HBM3", sm=90, memory_bytes=80 * GIB)


class Driver:
    """NVML with as many H100s as it is told; ``broken`` names the call that fails."""

    class NVMLError(Exception):
        """What every call of a broken driver raises."""

    def __init__(self, gpus=2, broken=""):
        self.gpus, self.broken, self.open = gpus, broken, False

    def _call(self, name):
        if name == self.broken:
            raise self.NVMLError(name)

    def nvmlInit(self):
        self._call("init")
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlSystemGetDriverVersion(self):
        self._call("driver")
        return "590.44.01"

    def nvmlSystemGetCudaDriverVersion(self):
        return 13010

    def nvmlDeviceGetCount(self):
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return H100.name

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}abc"

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return (9, 0)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=80 * GIB)


def test_gpus_driver_and_cuda_are_read():
    found = machine(nvml=Driver(), env={})
    assert found.gpus == (H100, H100)
    assert (found.driver, found.cuda) == ("590.44.01", "13.1")


@pytest.mark.parametrize("broken", ["init", "driver"])
def test_a_driver_that_fails_is_no_gpu_and_no_error(broken):
    driver = Driver(broken=broken)
    assert machine(nvml=driver, env={}).gpus == ()
    assert not driver.open


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("1,0", 2),
        ("0,7", 1),
        ("GPU-1a", 1),
        ("GPU-9", 0),
        ("0, 1", 2),
    ],
)
def test_only_the_gpus_that_cuda_would_show_count(visible, count):
    found = machine(nvml=Driver(), env={"CUDA_VISIBLE_DEVICES": visible})
    assert len(found.gpus) == count


def test_the_container_is_what_its_starter_says():
    assert machine(nvml=Driver(), env={module.CONTAINER: "nvcr.io/x@sha256:1"}).container == (
        "nvcr.io/x@sha256:1"
    )


def test_this_machine_can_be_looked_at():
    found = machine()
    assert isinstance(found, Machine)
    assert found.gpus == ()  # the tests hide every GPU
