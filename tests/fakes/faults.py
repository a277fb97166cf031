"""A disk that fails, or a machine that stops, at a chosen call to the operating system.

`Faults(root, at=7, strike=full)` lets six calls that touch files below ``root`` pass and hands the
seventh to ``strike``; ``seen`` counts them, so that a first run without a strike says how many
moments there are to try.
"""

import errno
import fcntl
import io
import os
import signal
import threading
from pathlib import Path

import pytest

CALLS = (
    (os, "link"),
    (os, "replace"),
    (os, "rename"),
    (os, "fsync"),
    (os, "open"),
    (os, "mkdir"),
    (os, "chmod"),
    (io, "open"),
    (fcntl, "flock"),
)


def full(name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def forbidden(name):
    raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """Count, and from ``at`` strike once, the calls of a block that touch ``root``."""

    def __init__(self, root, *, at=0, strike=None):
        self.root, self.at, self.strike = str(root), at, strike
        self.seen = 0
        self._lock = threading.Lock()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self):
        for module, name in CALLS:
            self._patch.setattr(module, name, self._guarded(name, getattr(module, name)))
        return self

    def __exit__(self, *_):
        self._patch.undo()

    def _guarded(self, name, original):
        def call(*args, **options):
            if self._touches(args[0]):
                with self._lock:
                    self.seen += 1
                    hit = self.seen == self.at
                if hit:
                    self.strike(name)
            return original(*args, **options)

        return call

    def _touches(self, first):
        if isinstance(first, str | Path):
            return str(first).startswith(self.root)
        return True
