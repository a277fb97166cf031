"""A real tritonserver whose TensorRT-LLM and vLLM are stand-ins: what it measures proves nothing.

The package `tensorrt_llm` reaches Triton's isolated interpreter by a small environment of its own
that lists this one's packages; the backends lie in the backend directory as NVIDIA's would.
"""

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from builders.serve.triton import TritonRuntime

FAKES = Path(__file__).parent
PACKAGES = FAKES / "llmapi"
BACKENDS = FAKES / "backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn(TritonRuntime):
    """The wheel's server with our backends, its models in another Python environment."""

    python: Path

    @classmethod
    def make(cls, folder: Path) -> "StandIn":
        """Make the environment, in a moment, and find the server."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        ours = sysconfig.get_path("purelib")
        (site / "stand_ins.pth").write_text(f"{ours}\n{PACKAGES}\n")
        found = TritonRuntime.locate()
        fields = {name: getattr(found, name) for name in TritonRuntime.__slots__}
        return cls(python=folder, **fields)

    def environment(self, env):
        """Put the other environment's Python first."""
        own = TritonRuntime.environment(self, env)
        return own | {"PATH": f"{self.python / 'bin'}:{own['PATH']}"}

    def lay_out(self, directory):
        """Add the backends."""
        made = TritonRuntime.lay_out(self, directory)
        # Triton refuses a Python-based backend whose library lies outside of the directory.
        for library in (made / "python").glob("*.so"):
            source = library.resolve()
            library.unlink()
            shutil.copyfile(source, library)
        for backend in BACKENDS.iterdir():
            (made / backend.name).mkdir()
            (made / backend.name / "model.py").symlink_to(backend / "model.py")
        return made
