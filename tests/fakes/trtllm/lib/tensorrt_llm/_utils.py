"""The barrier at which all ranks of a build meet."""

import os
import time
from pathlib import Path


def mpi_barrier():
    """Wait until every rank has come; a rank that never does ends this in half a minute."""
    place, size = Path(os.environ["FAKE_BARRIER"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
    (place / os.environ["OMPI_COMM_WORLD_RANK"]).touch()
    deadline = time.monotonic() + 30
    while len(list(place.iterdir())) < size:
        if time.monotonic() > deadline:
            raise TimeoutError("a rank never came to the barrier")
        time.sleep(0.01)
