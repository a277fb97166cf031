"""Contexts and model repositories that tests share."""

import shutil
from pathlib import Path

from builders.render import Context, render


def context(**changes):
    """Return the reference context with some fields changed."""
    given = {
        "name": "demo",
        "context": 1024,
        "concurrency": 4,
        "engine_digest": "e2b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "enginesmith": "0.1.0",
    }
    return Context(**given | changes)


def echo(root):
    """Write a repository whose model says the words that it is sent, and starts in a moment."""
    engine = root / "engine"
    engine.mkdir(parents=True)
    render("embedded", context(name="echo"), engine, root / "repository")
    shutil.copyfile(
        Path(__file__).with_name("triton_echo.py"),
        root / "repository" / "echo" / "1" / "model.py",
    )
    return root / "repository"
