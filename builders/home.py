"""Where enginesmith keeps its keys, its store and its logs. Knows nothing of their contents."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

NAME: Final = ".enginesmith"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One directory for keys, store and logs; finding it creates nothing."""

    root: Path
    given_key: Path | None = None

    @classmethod
    def find(cls, cwd: Path, env: Mapping[str, str]) -> Self:
        """Take ``$ENGINESMITH_HOME``, else the nearest ``.enginesmith/`` upward, else one in cwd.

        ``$ENGINESMITH_KEY`` names a signing key that lies elsewhere. An empty variable counts as
        unset, a relative path starts at ``cwd``.
        """
        cwd = cwd.absolute()
        named, key = env.get("ENGINESMITH_HOME"), env.get("ENGINESMITH_KEY")
        root = cwd / named if named else _nearest(cwd)
        return cls(root=root, given_key=cwd / key if key else None)

    @property
    def store(self) -> Path:
        """The default store."""
        return self.root / "store"

    @property
    def keys(self) -> Path:
        """Where the keys lie; private to the user."""
        return self.root / "keys"

    @property
    def signing_key(self) -> Path:
        """The private key that signs releases and moves channels."""
        return self.given_key or self.keys / "signing.pem"

    @property
    def trusted(self) -> Path:
        """The directory of public keys whose releases are accepted."""
        return self.keys / "trusted"

    @property
    def runs(self) -> Path:
        """The logs of what was run."""
        return self.root / "runs"

    def prepare(self) -> Self:
        """Create the directory, told to git as not to be committed; call before the first write.

        A directory of another name that exists already is the user's: no file is added to it.
        """
        ours = self.root.name == NAME or not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        ignore = self.root / ".gitignore"
        if ours and not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        return self


def _nearest(cwd: Path) -> Path:
    candidates = (directory / NAME for directory in (cwd, *cwd.parents))
    return next((path for path in candidates if path.is_dir()), cwd / NAME)
