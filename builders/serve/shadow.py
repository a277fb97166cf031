"""A second face of a model repository, beside whose files the server may write.

Triton's Python backend leaves ``__pycache__`` beside each ``model.py``, which changes a signed
directory, and its isolated interpreter listens to no variable that forbids it. Directories are made
anew, files are symbolic links: it takes no room and no time, and also serves from a read-only disk.
"""

from pathlib import Path

from builders import files
from builders.errors import ToolError, UsageError


def shadow(repository: Path, into: Path) -> tuple[str, ...]:
    """Fill the new directory ``into`` and return the names of the models, in order."""
    if not repository.is_dir():
        raise UsageError(f"{repository}: no such model repository", hint="enginesmith render")
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not models:
        raise UsageError(f"{repository}: holds no model with a config.pbtxt")
    with files.disk_errors("preparing the model repository"):
        for name in models:
            _mirror(repository.absolute() / name, into / name)
    return tuple(models)


def _mirror(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_dir():
            _mirror(path, target / path.name)
        elif path.is_file():
            (target / path.name).symlink_to(path)
        else:
            raise ToolError(f"{path}: neither a file nor a directory")
