"""Which versions of which libraries go into a stage's key."""

from importlib import metadata


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of enginesmith and of the named distributions."""
    return {name: _version(name) for name in ("enginesmith", *names)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
