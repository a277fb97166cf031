"""One model of a repository: its files, where its engine goes, what its configuration must say."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A directory below the repository.

    ``templates`` maps a path in it to the template that is rendered there, ``programs`` to the
    module of `builders.render.programs` that is copied there; ``engine`` is the directory that
    takes the engine's files, "" for none; ``meant`` is the ModelConfig message that
    ``config.pbtxt`` must parse back to, in protobuf's JSON form, written without the template.
    """

    name: str
    templates: Mapping[str, str]
    meant: Mapping[str, object]
    programs: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
