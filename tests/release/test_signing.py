"""Only an envelope with one signature, by a trusted key, over this very payload is believed."""

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from builders.errors import BuildersError, ReleaseError
from builders.home import Home
from builders.release.signing import (
    SigningKey,
    Trusted,
    ensure_key,
    keygen,
    only,
    pre_authentication,
    trust,
    verify,
)
from fakes.victim import KEY, TRUSTED

TYPE = "application/test+json"
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture
def home(tmp_path):
    return Home.find(tmp_path, {})


def opened(envelope, **changes):
    return json.dumps(json.loads(envelope) | changes).encode()


def check(envelope, trusted=TRUSTED):
    return verify(envelope, trusted, payload_type=TYPE, place="manifest.json")


# --- envelopes


def test_a_signed_payload_comes_back_with_its_key():
    vouched = check(KEY.sign(b"payload", TYPE))
    assert (vouched.payload, vouched.key_id) == (b"payload", KEY.id)


def test_equal_payloads_give_equal_envelopes():
    assert KEY.sign(b"payload", TYPE) == KEY.sign(b"payload", TYPE)


def test_what_is_signed_is_what_dsse_says():
    """The example of DSSE's protocol.md."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


def test_lengths_count_bytes_not_characters():
    assert pre_authentication("é", "é".encode()) == "DSSEv1 2 é 2 é".encode()


def test_a_changed_payload_is_refused():
    envelope = opened(KEY.sign(b"payload", TYPE), payload=base64.b64encode(b"payloaD").decode())
    with pytest.raises(ReleaseError, match="signature does not match") as caught:
        check(envelope)
    assert "do not use it" in caught.value.hint


def test_a_key_that_is_not_trusted_is_refused_and_the_hint_says_how_to_trust_it(stranger):
    with pytest.raises(ReleaseError, match=f"'{stranger.id}', which is not trusted") as caught:
        check(stranger.sign(b"payload", TYPE))
    assert "put their public key into trusted/" in caught.value.hint


def test_a_stranger_who_names_a_trusted_key_is_refused(stranger):
    envelope = json.loads(stranger.sign(b"payload", TYPE))
    envelope["signatures"][0]["keyid"] = KEY.id
    with pytest.raises(ReleaseError, match="signature does not match"):
        check(json.dumps(envelope).encode())


def test_a_payload_of_another_type_is_refused():
    with pytest.raises(ReleaseError, match="signed as 'application/other', expected"):
        check(KEY.sign(b"payload", "application/other"))


def test_a_payload_signed_as_one_type_and_relabelled_is_refused():
    envelope = opened(KEY.sign(b"payload", "application/other"), payloadType=TYPE)
    with pytest.raises(ReleaseError, match="signature does not match"):
        check(envelope)


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_signature_is_demanded(count):
    envelope = KEY.sign(b"payload", TYPE)
    signatures = json.loads(envelope)["signatures"] * count
    with pytest.raises(ReleaseError, match=f"{count} signatures where exactly one"):
        check(opened(envelope, signatures=signatures))


def test_an_envelope_cut_anywhere_is_refused():
    envelope = KEY.sign(b"payload", TYPE)
    for length in range(len(envelope)):
        with pytest.raises(ReleaseError, match=r"manifest\.json"):
            check(envelope[:length])


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "not base64!"},
        {"payload": None},
        {"signatures": None},
        {"signatures": {}},
        {"signatures": [None]},
        {"signatures": [{"keyid": KEY.id}]},
        {"signatures": [{"sig": "AAAA"}]},
        {"signatures": [{"keyid": [KEY.id], "sig": "AAAA"}]},
        {"signatures": [{"keyid": KEY.id, "sig": "AAAA"}]},
        {"signatures": [{"keyid": KEY.id, "sig": ""}]},
        {"payloadType": None},
    ],
)
def test_a_malformed_envelope_is_refused(changes):
    with pytest.raises(ReleaseError):
        check(opened(KEY.sign(b"payload", TYPE), **changes))


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_refusal(data):
    with pytest.raises(ReleaseError):
        check(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_read(position, mask):
    envelope = bytearray(KEY.sign(b"payload", TYPE))
    envelope[position % len(envelope)] ^= mask
    try:
        vouched = check(bytes(envelope))
    except ReleaseError:
        return
    assert vouched.payload == b"payload"  # slack in base64 or JSON, not in what was signed


# --- keys


def test_the_key_id_is_the_public_keys_fingerprint(home):
    key_id = keygen(home)
    public = (home.trusted / f"{key_id}.pem").read_bytes()
    assert key_id == hashlib.sha256(public).hexdigest()[:16]
    assert SigningKey.load(home.signing_key).id == key_id


def test_a_new_key_is_private_and_trusted_here(home):
    key_id = keygen(home)
    assert stat.S_IMODE(home.signing_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert list(Trusted.load(home.trusted).keys) == [key_id]
    assert (home.root / ".gitignore").read_text() == "*\n"


def test_keygen_never_overwrites(home):
    keygen(home)
    before = home.signing_key.read_bytes()
    with pytest.raises(ReleaseError, match="there is a signing key already") as caught:
        keygen(home)
    assert "move it away" in caught.value.hint
    assert home.signing_key.read_bytes() == before


def test_a_key_never_shows_in_what_is_printed(home):
    keygen(home)
    key = SigningKey.load(home.signing_key)
    assert repr(key) == "SigningKey()"


def test_first_use_makes_a_key_and_says_so(home):
    said = []
    key = ensure_key(home, said.append)
    assert said == [f"first use: made the signing key {key.id} in {home.signing_key}"]
    assert ensure_key(home, said.append).id == key.id
    assert len(said) == 1


def test_a_first_use_that_was_killed_halfway_is_completed(home):
    key_id = keygen(home)
    (home.trusted / f"{key_id}.pem").unlink()
    said = []
    assert ensure_key(home, said.append).id == key_id
    assert said == [f"first use: trusting the signing key {key_id}"]
    assert list(Trusted.load(home.trusted).keys) == [key_id]


def test_where_others_are_trusted_no_key_is_made(home):
    trust(home, KEY.public_pem())
    with pytest.raises(ReleaseError, match="no signing key, though keys are trusted") as caught:
        ensure_key(home, print)
    assert "enginesmith keygen" in caught.value.hint
    assert not home.signing_key.exists()


def test_a_key_of_ones_own_is_not_trusted_silently_beside_others(home):
    trust(home, KEY.public_pem())
    keygen(home)
    for path in home.trusted.glob("*.pem"):
        if path.stem != KEY.id:
            path.unlink()
    ensure_key(home, print)
    assert list(Trusted.load(home.trusted).keys) == [KEY.id]


def test_the_environment_may_name_the_key(tmp_path):
    keygen(Home.find(tmp_path / "elsewhere", {}))
    other = tmp_path / "elsewhere" / ".enginesmith" / "keys" / "signing.pem"
    home = Home.find(tmp_path, {"ENGINESMITH_KEY": str(other)})
    said = []
    assert ensure_key(home, said.append).id == SigningKey.load(other).id
    assert said[0].startswith("first use: trusting")


def test_a_named_key_that_is_not_there_is_not_made(tmp_path):
    home = Home.find(tmp_path, {"ENGINESMITH_KEY": "gone.pem"})
    with pytest.raises(ReleaseError, match=r"gone\.pem: No such file") as caught:
        ensure_key(home, print)
    assert "ENGINESMITH_KEY" in caught.value.hint
    assert not (tmp_path / "gone.pem").exists()


def test_racing_first_uses_make_one_key(tmp_path):
    script = (
        "from pathlib import Path; from builders.home import Home;"
        "from builders.release.signing import ensure_key;"
        f"print(ensure_key(Home.find(Path({str(tmp_path)!r}), {{}}), lambda _: None).id)"
    )
    argv = [sys.executable, "-c", script]
    racers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = [racer.communicate(timeout=60)[0] for racer in racers]
    assert len(set(ids)) == 1
    assert [racer.returncode for racer in racers] == [0, 0, 0]


def rsa_like():
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key, lock=None):
    encryption = lock or serialization.NoEncryption()
    return key.private_bytes(PEM, PKCS8, encryption)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an Ed25519 private key"),
        (b"-----BEGIN PRIVATE KEY-----\ngarbage\n-----END PRIVATE KEY-----\n", "not an Ed25519"),
        (private_pem(rsa_like()), "not an Ed25519 private key"),
        (KEY.public_pem(), "not an Ed25519 private key"),
        (
            private_pem(
                ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"pw")
            ),
            "locked by a password",
        ),
    ],
    ids=["empty", "garbage", "another kind", "public", "locked"],
)
def test_a_file_that_is_no_signing_key_is_named(tmp_path, content, says):
    (tmp_path / "signing.pem").write_bytes(content)
    with pytest.raises(ReleaseError, match=rf"signing\.pem: .*{says}") as caught:
        SigningKey.load(tmp_path / "signing.pem")
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", private_pem(ed25519.Ed25519PrivateKey.generate()), b"\xff\x00"],
    ids=["empty", "private", "binary"],
)
def test_a_file_that_is_no_public_key_is_named(home, content):
    home.trusted.mkdir(parents=True)
    (home.trusted / "friend.pem").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"friend\.pem: not an Ed25519 public key"):
        Trusted.load(home.trusted)


def test_a_public_key_of_another_kind_is_refused(home):
    home.trusted.mkdir(parents=True)
    pem = rsa_like().public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (home.trusted / "friend.pem").write_bytes(pem)
    with pytest.raises(ReleaseError, match="not an Ed25519 public key"):
        Trusted.load(home.trusted)


def test_one_key_may_be_all_the_trust(home, tmp_path, stranger):
    keygen(home)
    (tmp_path / "theirs.pub").write_bytes(stranger.public_pem())
    trusted = only(tmp_path / "theirs.pub")
    assert list(trusted.keys) == [stranger.id]
    assert check(stranger.sign(b"payload", TYPE), trusted).key_id == stranger.id
    with pytest.raises(ReleaseError, match=r"gone: No such file"):
        only(tmp_path / "gone")


def test_no_directory_of_trusted_keys_is_no_trust(home):
    assert Trusted.load(home.trusted).keys == {}


def test_a_home_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    home = Home.find(tmp_path, {"ENGINESMITH_HOME": "file"})
    with pytest.raises(BuildersError, match="signing key") as caught:
        keygen(home)
    assert caught.value.hint


def test_a_directory_in_the_keys_place_is_named(home):
    home.signing_key.mkdir(parents=True)
    with pytest.raises(ReleaseError, match=os.strerror(21)):
        SigningKey.load(home.signing_key)
