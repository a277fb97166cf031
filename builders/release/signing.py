"""Who vouches: Ed25519 keys, and DSSE envelopes whose signature is checked before they are read.

DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md) signs the payload's type together with
the payload, so that one kind of document can never be taken for another.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from builders import files
from builders.bundle import canonical
from builders.errors import ReleaseError
from builders.home import Home
from builders.release.wire import decoded, expect, understood

_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; its id is the one of its public half."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a private key from an unencrypted PEM file."""
        raw = _read(path, hint="enginesmith keygen makes one; ENGINESMITH_KEY names another place")
        try:
            key = serialization.load_pem_private_key(raw, password=None)
        except TypeError:
            raise ReleaseError(
                f"{path}: the key is locked by a password", hint="store it without, readable to you"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise _no_key(path, "private") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise _no_key(path, "private")
        return cls(key)

    @property
    def id(self) -> str:
        """The key id: 16 hex digits of the SHA-256 of the public PEM."""
        return _id(self.public_pem())

    def public_pem(self) -> bytes:
        """Return the public half, for those who are to trust it."""
        return _pem(self._private.public_key())

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return a DSSE envelope; equal payloads give equal bytes (Ed25519 is deterministic)."""
        signature = self._private.sign(pre_authentication(payload_type, payload))
        return canonical(
            {
                "payloadType": payload_type,
                "payload": base64.b64encode(payload).decode(),
                "signatures": [{"keyid": self.id, "sig": base64.b64encode(signature).decode()}],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """The public keys whose word counts, and the directory they were read from."""

    directory: Path
    keys: Mapping[str, Ed25519PublicKey]

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read ``*.pem``; a file that is not a public key is refused, no directory is no trust."""
        found = [_public(path) for path in sorted(directory.glob("*.pem"))]
        return cls(directory=directory, keys={_id(_pem(key)): key for key in found})


@dataclass(frozen=True, slots=True)
class Vouched:
    """A payload whose signature held, and the id of the key that made it."""

    payload: bytes
    key_id: str


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: what is signed, with lengths, so that nothing can shift between parts."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def verify(envelope: bytes, trusted: Trusted, *, payload_type: str, place: str) -> Vouched:
    """Return the payload if exactly one signature, by a trusted key, holds; ``place`` names it."""
    outer = decoded(envelope, place)
    kind = outer.get("payloadType")
    if kind != payload_type:
        raise ReleaseError(
            f"{place}: signed as {kind!r}, expected {payload_type!r}",
            hint="another kind of document lies in its place: copy it anew from where it was made",
        )
    payload, key_id, signature = understood(lambda: _opened(outer), place)
    key = trusted.keys.get(key_id)
    if key is None:
        raise ReleaseError(
            f"{place}: signed by key {key_id[:80]!r}, which is not trusted here",
            hint=f"if you trust its owner, put their public key into {trusted.directory}/",
        )
    try:
        key.verify(signature, pre_authentication(payload_type, payload))
    except InvalidSignature:
        raise ReleaseError(
            f"{place}: the signature does not match: it was changed after it was signed",
            hint="do not use it; fetch it again from where it was made",
        ) from None
    return Vouched(payload, key_id)


def only(path: Path) -> Trusted:
    """Trust one public key and no other."""
    key = _public(path)
    return Trusted(directory=path.parent, keys={_id(_pem(key)): key})


def keygen(home: Home) -> str:
    """Make a signing key and trust it here; an existing one is never overwritten."""
    if not (key_id := _make(home)):
        raise ReleaseError(
            f"{home.signing_key}: there is a signing key already, and it stays",
            hint="move it away first if you want another one",
        )
    return key_id


def trust(home: Home, public_pem: bytes) -> str:
    """Trust a public key; returns its id."""
    key_id = _id(public_pem)
    with files.disk_errors("write the trusted key"):
        home.prepare()
        home.keys.mkdir(mode=0o700, exist_ok=True)
        files.write_atomic(home.trusted / f"{key_id}.pem", public_pem)
    return key_id


def ensure_key(home: Home, say: Callable[[str], None]) -> SigningKey:
    """Load the signing key; on the very first use make one and say so.

    Where others' keys are trusted but none signs, or a key was named that is not there, nothing is
    made: a release by a new key would be refused elsewhere.
    """
    trusted = Trusted.load(home.trusted)
    if not home.signing_key.exists() and not home.given_key:
        if trusted.keys:
            raise ReleaseError(
                f"{home.signing_key}: no signing key, though keys are trusted in {home.trusted}",
                hint="put the key there, name it in ENGINESMITH_KEY, or run enginesmith keygen",
            )
        if made := _make(home):
            say(f"first use: made the signing key {made} in {home.signing_key}")
    key = SigningKey.load(home.signing_key)
    if not trusted.keys and key.id not in Trusted.load(home.trusted).keys:
        say(f"first use: trusting the signing key {trust(home, key.public_pem())}")
    return key


def _make(home: Home) -> str:
    """Make a key unless there is one by now; returns its id, or nothing."""
    with files.disk_errors("write the signing key"):
        home.prepare()
        home.keys.mkdir(mode=0o700, exist_ok=True)
        with files.locked(home.keys / ".lock"):
            if home.signing_key.exists():
                return ""
            private = Ed25519PrivateKey.generate()
            pem = private.private_bytes(
                _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            files.write_atomic(home.signing_key, pem, mode=0o600)
            return trust(home, SigningKey(private).public_pem())


def _opened(outer: Mapping[str, object]) -> tuple[bytes, str, bytes]:
    signatures = expect(list, outer["signatures"])
    if len(signatures) != 1:
        raise ValueError(f"{len(signatures)} signatures where exactly one is expected")
    one = expect(dict, signatures[0])
    payload, signature = (
        base64.b64decode(expect(str, text), validate=True)
        for text in (outer["payload"], one["sig"])
    )
    return payload, expect(str, one["keyid"]), signature


def _id(pem: bytes) -> str:
    return hashlib.sha256(pem).hexdigest()[:16]


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(_read(path, hint="remove it or mend its mode"))
    except (ValueError, UnsupportedAlgorithm):
        raise _no_key(path, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return key


def _read(path: Path, *, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}", hint=hint) from error


def _no_key(path: Path, half: str) -> ReleaseError:
    return ReleaseError(
        f"{path}: not an Ed25519 {half} key in PEM form",
        hint=f"the file must begin with -----BEGIN {half.upper()} KEY-----",
    )
