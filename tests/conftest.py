"""Guards for every test: no network, no GPU, nothing of the user's home; and rarely made models.

The environment is set when this file is imported, before any test module can import a library that
reads it, and is inherited by the programs that tests start.
"""

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="enginesmith-tests-")
_OWN = ("HF_", "HUGGING", "TRANSFORMERS_", "ENGINESMITH_", "XDG_", "TRITON_", "MODELOPT_")


def _isolate(home: Path) -> None:
    for name in [name for name in os.environ if name.startswith(_OWN)]:
        del os.environ[name]
    os.environ |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": os.environ.get("GPU_TESTS", ""),  # see tests/gpu
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take 10 times longer on a busy machine
        "NO_PROXY": "127.0.0.1,localhost",
    }


_isolate(Path(_HOME.name))


def _is_local(family: int, address: object) -> bool:
    if family == socket.AF_UNIX:
        return True
    host = str(address[0]) if isinstance(address, tuple) else ""
    if host in {"localhost", ""}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Let sockets reach loopback only; anything else raises before a packet leaves."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(original):
    def connect(self, address):
        if not _is_local(self.family, address):
            raise RuntimeError(f"tests stay on this machine, but something connects to {address}")
        return original(self, address)

    return connect
