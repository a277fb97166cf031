"""A small road to a release, made to be killed: three stages, a seal, a promotion.

    python victim.py ROOT LOG release PAUSE       walk the road, PAUSE seconds in each stage
    python victim.py ROOT LOG channel NAME TIMES  promote TIMES releases of its own to one channel

The log gets a line when a stage starts and when the store has answered, so that a test can tell
whether a finished stage was done again.
"""

import os
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builders.release.channel import Action, Channel
from builders.release.manifest import Predicate
from builders.release.promotion import promote
from builders.release.seal import seal
from builders.release.signing import SigningKey, Trusted
from builders.store import Store
from builders.verdict import Verdict

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = SigningKey(PRIVATE)
TRUSTED = Trusted(directory=Path("trusted"), keys={KEY.id: PRIVATE.public_key()})
PASSED = Verdict(gate="perplexity", worse_by=0.0, low=-0.1, high=0.1, margin=0.2, units=60)
STAGES = ("quantize", "build", "render")


def note(log, line):
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def road(root, log, pause=0.0):
    """Walk the whole road and return the release's digest."""
    store, trees, before = Store.at(Path(root)), {}, ""
    for name in STAGES:

        def work(out, name=name):
            note(log, f"start {name}")
            (out / "inner").mkdir()
            for number in range(2):
                (out / "inner" / f"{number}.bin").write_bytes(f"{name} {number}".encode() * 999)
                time.sleep(pause / 2)

        stage = store.run(name, inputs={"before": before}, work=work)
        note(log, f"done {name}")
        trees[name], before = stage.tree, stage.tree.digest
    digest = seal(store, trees, Predicate(plan="p", verdicts=(PASSED,)), KEY)
    channel = Channel.named(store, "cpu/stable", TRUSTED)
    promote(channel, digest, required=("perplexity",), key=KEY)
    note(log, f"promoted {digest}")
    return digest


def storm(root, log, name, times):
    """Point one channel to many digests, while others do the same."""
    channel = Channel.named(Store.at(Path(root)), "cpu/stable", TRUSTED)
    for number in range(int(times)):
        entry = channel.point_to(f"sha256:{name}-{number}", Action.PROMOTE, key=KEY)
        note(log, f"{entry.seq} {entry.digest}")


if __name__ == "__main__":
    root, log, verb, *rest = sys.argv[1:]
    if verb == "release":
        road(root, log, float(*rest))
    else:
        storm(root, log, *rest)
