"""Environments made on demand, for what cannot be installed beside the others.

An environment is a virtual environment under ``<home>/envs``. A stamp, written last, says which
requirements are installed in it; without that stamp nobody uses it, so a killed `create` leaves
nothing that works by half, and the next one goes on where it stopped.
"""

import os
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Final, Self

from builders import files, process
from builders.errors import ToolError, UsageError
from builders.home import Home
from builders.parse import nearest
from builders.progress import Progress

# Where requirements lie: in the rooms that drive what is installed by them.
_DATA: Final = ("builders.quantize.envs", "builders.engine.vllm.envs")
_STAMP: Final = ".enginesmith"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What an environment holds: one sentence on what it is for, its size, and pinned packages.

    ``whole`` says that every package is named, so that the installer looks for no others.
    """

    name: str
    file: Path
    summary: str
    bytes: int
    packages: tuple[str, ...]
    whole: bool = False

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a requirements file whose first lines say ``# summary: …`` and ``# bytes: …``.

        ``# whole: yes`` may follow.
        """
        lines = file.read_text(encoding="utf-8").splitlines()
        said = dict(
            line.removeprefix("# ").split(": ", 1)
            for line in lines
            if line.startswith("# ") and ": " in line
        )
        return cls(
            name=file.stem,
            file=file,
            summary=said["summary"],
            bytes=int(said["bytes"]),
            packages=tuple(line for line in lines if line and not line.startswith("#")),
            whole=said.get("whole") == "yes",
        )

    @property
    def digest(self) -> str:
        """SHA-256 over the packages and the Python that they are installed for."""
        python = f"{sys.implementation.cache_tag} {sys.platform}"
        return sha256("\n".join((python, *self.packages)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One environment of one home, made or not."""

    requirements: Requirements
    root: Path

    @classmethod
    def find(cls, name: str, home: Home) -> Self:
        """Look an environment up by name; an unknown one is a `UsageError`."""
        known = shipped()
        if name not in known:
            raise UsageError(f"unknown environment {name!r}", hint=nearest(name, known))
        return cls(requirements=known[name], root=home.root / "envs" / name)

    @property
    def name(self) -> str:
        """Its name."""
        return self.requirements.name

    @property
    def python(self) -> Path:
        """The Python that runs in it."""
        return self.root / "bin" / "python"

    @property
    def state(self) -> str:
        """``ready``, ``absent``, ``unfinished`` (a create was stopped) or ``outdated``."""
        if not self.root.is_dir():
            return "absent"
        stamp = self.root / _STAMP
        if not stamp.is_file() or not self.python.exists():
            return "unfinished"
        same = stamp.read_text(encoding="utf-8") == self.requirements.digest
        return "ready" if same else "outdated"

    @property
    def log(self) -> Path:
        """What was printed while it was made."""
        return self.root.parent / f"{self.name}.log"

    def required(self) -> Self:
        """Return the environment if it is ready; a `ToolError` says how to make it so."""
        if self.state != "ready":
            raise ToolError(
                f"the environment {self.name} is {self.state}",
                hint=f"enginesmith env create {self.name}: {self.requirements.summary} "
                f"({self.requirements.bytes / 1e9:.1f} GB or more)",
            )
        return self

    def create(self, progress: Progress) -> None:
        """Make it, or bring it up to date; a second call finds it done.

        Two at once take turns. Too little disk is told before any work.
        """
        with files.disk_errors(f"making {self.root}"), files.locked(self._lock):
            if self.state == "ready":
                return
            self._refuse_small_disk()
            (self.root / _STAMP).unlink(missing_ok=True)
            self.log.unlink(missing_ok=True)
            progress("make the environment", 0, 1)
            if not self.python.exists():
                for _ in self._run(sys.executable, "-m", "venv", str(self.root)):
                    pass
            progress("make the environment", 1, 1)
            self._install(progress)
            files.write_atomic(self.root / _STAMP, self.requirements.digest)

    def remove(self) -> None:
        """Delete it with all that is in it; one that is not there is a `UsageError`."""
        with files.disk_errors(f"removing {self.root}"), files.locked(self._lock):
            if self.state == "absent":
                raise UsageError(f"{self.root}: no such environment", hint="enginesmith env list")
            (self.root / _STAMP).unlink(missing_ok=True)
            shutil.rmtree(self.root)
            self.log.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.root.parent / f".{self.name}.lock"

    def _install(self, progress: Progress) -> None:
        total = len(self.requirements.packages)
        pip = (
            str(self.python),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
        )
        alone = ("--no-deps",) if self.requirements.whole else ()
        options = (*alone, "--progress-bar", "off", "-r", str(self.requirements.file))
        seen = 0
        with closing(self._run(*pip, *options)) as lines:
            for line in lines:
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    seen = min(seen + 1, total)
                    progress("collect packages", seen, total, unit="packages")
                elif line.startswith("Installing collected packages"):
                    progress("collect packages", total, total, unit="packages")
                    progress("install packages", 0, 1)
        progress("install packages", 1, 1)

    def _run(self, *argv: str) -> Generator[str]:
        """Run a program and pass its lines on, after they went into the log."""
        with closing(process.converse(argv, log=self.log, env=_clean(os.environ))) as lines:
            for line in lines:
                with self.log.open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")
                yield line

    def _refuse_small_disk(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root.parent).free
        if free < self.requirements.bytes:
            raise ToolError(
                f"{self.root}: {self.name} takes {self.requirements.bytes / 1e9:.1f} GB or more, "
                f"and {free / 1e9:.1f} GB are free",
                hint="free space, or set ENGINESMITH_HOME to a larger disk",
            )


def shipped() -> dict[str, Requirements]:
    """Return the requirements of every environment that the package knows, by name."""
    found = (Path(str(one)) for data in _DATA for one in resources.files(data).iterdir())
    read = (Requirements.read(file) for file in sorted(found) if file.suffix == ".txt")
    return {requirements.name: requirements for requirements in read}


def _clean(env: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would let one Python see another's packages."""
    return {key: value for key, value in env.items() if not key.startswith(("PYTHON", "VIRTUAL_"))}
