"""A stand-in for pynvml: GPUs that do what a script says, one step each time they are looked at."""

from types import SimpleNamespace


class NVMLError(Exception):
    """What NVML cannot tell."""


class Nvml(SimpleNamespace):
    """Put it into ``sys.modules["pynvml"]``; ``steps`` holds one dictionary a look, then the last.

    Keys: ``busy`` in percent, ``clock`` in MHz, ``reasons`` as bits, ``errors`` so far,
    ``celsius``, ``processes``.
    """

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    def __init__(self, *steps, broken="", counts_errors=True):
        super().__init__(steps=list(steps), broken=broken, counts_errors=counts_errors, open=0)
        self.now = self.steps[0] if self.steps else {}

    def nvmlInit(self):
        if self.broken:
            raise NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return "Fake 100"

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.now = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return SimpleNamespace(gpu=self.now.get("busy", 90))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.now.get("reasons", 0)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self.now.get("clock", 1500)

    def nvmlDeviceGetTemperature(self, handle, kind):
        return self.now.get("celsius", 40)

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        if not self.counts_errors:
            raise NVMLError("not supported")
        return self.now.get("errors", 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=n) for n in range(self.now.get("processes", 1))]
