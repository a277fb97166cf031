"""One context that the tests of this room share."""

from builders.render import Context


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
