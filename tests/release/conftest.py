"""A store with a key, and releases made in it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from builders.release.channel import Channel
from builders.release.manifest import Predicate
from builders.release.seal import directory, seal
from builders.release.signing import SigningKey, Trusted
from builders.store import Store
from builders.verdict import Verdict
from fakes import victim

BOUNDS = {"passed": (-0.1, 0.1), "failed": (0.3, 0.5), "inconclusive": (0.0, 0.4)}


def verdict(gate, outcome):
    low, high = BOUNDS[outcome]
    return Verdict(gate=gate, worse_by=(low + high) / 2, low=low, high=high, margin=0.2, units=60)


@dataclass(frozen=True)
class House:
    """A store, who signs in it, and whom it trusts."""

    store: Store
    key: SigningKey
    trusted: Trusted

    def sealed(self, text="weights", key=None, **outcomes):
        """Seal a small bundle whose gates ended as told; perplexity passed unless told."""
        stage = self.store.run("build", inputs={"text": text}, work=lambda out: fill(out, text))
        tools = outcomes.pop("tools", {"torch": "2"})
        gates = outcomes or {"perplexity": "passed"}
        verdicts = tuple(verdict(gate, outcome) for gate, outcome in gates.items())
        said = Predicate(plan="p", verdicts=verdicts, tools=tools, stages={"b": "k"})
        return seal(self.store, {"engine": stage.tree}, said, key or self.key)

    def channel(self, name="cpu/stable"):
        return Channel.named(self.store, name, self.trusted)

    def place(self, digest) -> Path:
        return directory(self.store, digest)


def fill(out, text):
    (out / "1").mkdir()
    (out / "1" / "model.bin").write_text(text)
    (out / "config.json").write_text("{}")


@pytest.fixture
def house(tmp_path):
    return House(Store.at(tmp_path / "store"), victim.KEY, victim.TRUSTED)


@pytest.fixture
def stranger(tmp_path):
    """A key that nobody here trusts."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
