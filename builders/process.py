"""The only place that starts other programs; a child never outlives its parent."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from builders.errors import ToolError

_WIDTH = 300  # characters of a log's line in an error message
# Run before the program itself, in the child: asks the kernel to end it when its parent is killed
# (prctl(2), PR_SET_PDEATHSIG; Linux only). Not a preexec_fn: gRPC's fork handlers crash in those.
_BIND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
parent, locale, program, *argv = sys.argv[1:]
if os.getppid() != int(parent):
    sys.exit(143)  # killed before the kernel was asked
if locale == "-":
    os.environ.pop("LC_CTYPE", None)
os.execv(program, argv)
"""


class MissingProgram(ToolError):
    """A program that we would drive is not on this machine's path."""


def _bound(argv: Sequence[str], env: Mapping[str, str] | None) -> list[str]:
    """Return a command that runs ``argv`` and dies with its parent; it must be there."""
    seen = os.environ if env is None else env
    program = shutil.which(argv[0], path=seen.get("PATH", os.defpath))
    if program is None:
        raise MissingProgram(f"{argv[0]}: no such program", hint="enginesmith doctor")
    locale = "LC_CTYPE" if "LC_CTYPE" in seen else "-"  # Python adds it where there is none
    bind = [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), locale, program]
    return [*bind, *argv]


def start(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a long-running program in its own session, its output going to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            _bound(argv, env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=folder,
            start_new_session=True,
        )


def run(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a program to its end; failure is a `ToolError` with the last lines of its log."""
    child = start(argv, log=log, env=env)
    try:
        code = child.wait()
    except BaseException:
        stop(child)
        raise
    if code:
        raise ToolError(f"{argv[0]} exited {code}:\n{tail(log)}", hint=f"the whole log: {log}")


def converse(
    argv: Sequence[str],
    *,
    say: str = "",
    log: Path,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Generator[str]:
    """Say one thing to a program and yield the lines it answers with; its stderr goes to ``log``.

    A code other than 0 at its end is a `ToolError` with the last lines of the log. Who stops
    listening ends the program: close the iterator.
    """
    child = _piped(argv, log=log, env=env, folder=folder)
    try:
        yield from _answers(child, say)
        code = child.wait()
    finally:
        stop(child)
        child.stdout.close()  # type: ignore[union-attr] # a pipe, as asked
    if code:
        raise ToolError(f"{argv[0]} exited {code}:\n{tail(log)}", hint=f"the whole log: {log}")


def _piped(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        try:
            return subprocess.Popen(
                _bound(argv, env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=None if env is None else dict(env),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"{argv[0]}: {error.strerror}", hint="enginesmith doctor") from error


class Dialogue:
    """A program that is spoken with, line by line, as long as anybody wants."""

    def __init__(self, child: subprocess.Popen[bytes], argv: Sequence[str], log: Path) -> None:
        self._child, self._name, self.log = child, argv[0], log

    def say(self, line: str) -> None:
        """Send a line; one that ended does not hear it, and says why when it is listened to."""
        assert self._child.stdin
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(f"{line}\n".encode())
            self._child.stdin.flush()

    def hear(self) -> str:
        """Wait for the next line; a program that ended is a `ToolError` with its last words."""
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait()
            raise ToolError(
                f"{self._name} exited {code}:\n{tail(self.log)}", hint=f"the whole log: {self.log}"
            )
        return line.decode(errors="replace").rstrip("\r\n")


@contextmanager
def dialogue(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    grace: float = 20.0,
) -> Iterator[Dialogue]:
    """Speak with a program while the block runs, then end it; its stderr goes to ``log``."""
    child = _piped(argv, log=log, env=env)
    try:
        yield Dialogue(child, argv, log)
    finally:
        with contextlib.suppress(OSError):
            child.stdin.close()  # type: ignore[union-attr] # a pipe, as asked
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace if child.poll() is None else 0)  # it ends when nobody speaks
        stop(child)
        child.stdout.close()  # type: ignore[union-attr] # a pipe, as asked


def _answers(child: subprocess.Popen[bytes], say: str) -> Iterator[str]:
    assert child.stdin
    assert child.stdout
    with contextlib.suppress(BrokenPipeError):  # it ended without listening; its code says why
        child.stdin.write(say.encode())
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    for line in child.stdout:
        yield line.decode(errors="replace").rstrip("\r\n")


def output(argv: Sequence[str], *, seconds: float = 30.0) -> str:
    """Return what a short program prints; failure or silence past ``seconds`` is a `ToolError`."""
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, timeout=seconds, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"{argv[0]}: {error}", hint="enginesmith doctor") from error
    return done.stdout


def stop(child: subprocess.Popen[bytes], *, grace: float = 20.0) -> None:
    """End a child and its whole session: SIGTERM, ``grace`` seconds, SIGKILL."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    kept = text.splitlines()[-lines:]
    return "\n".join(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in kept)
