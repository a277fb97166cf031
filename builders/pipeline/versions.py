"""Which libraries, and which code of our own, go into a stage's key."""

from functools import cache
from importlib import metadata, resources
from pathlib import Path

from builders import files
from builders.bundle import fingerprint


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of enginesmith and of the named distributions."""
    return {name: _version(name) for name in ("enginesmith", *names)}


@cache
def code(*rooms: str) -> str:
    """Return a digest of the source of some rooms: changed code does its work anew.

    A version alone would not do: a checkout that is worked on keeps its version.
    """
    roots = {room: Path(str(resources.files(f"builders.{room}"))) for room in rooms}
    sources = {
        f"{room}/{path.relative_to(root).as_posix()}": files.digest(path)
        for room, root in roots.items()
        for path in root.rglob("*")
        if path.suffix in {".py", ".toml", ".json", ".txt"}
    }
    return fingerprint(sources)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
