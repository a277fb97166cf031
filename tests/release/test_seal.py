"""A sealed release is whole, signed and never edited; each way of tampering is refused by name."""

import json
import os
import shutil

import pytest

from builders.bundle import Artifact, Tree
from builders.errors import ReleaseError, ToolError, UsageError
from builders.release import seal as sealing
from builders.release.channel import PAYLOAD_TYPE as CHANNEL_TYPE
from builders.release.manifest import Predicate
from builders.release.seal import seal, verify
from builders.release.signing import Trusted
from builders.store import Store
from builders.verdict import Outcome
from fakes import faults

SAID = Predicate(plan="p", verdicts=())


@pytest.fixture
def digest(house):
    return house.sealed()


@pytest.fixture
def place(house, digest):
    """The release's own copy: what is done to it does not reach the store's blobs."""
    place = house.place(digest)
    copy = place.with_name("copy")
    shutil.copytree(place, copy)
    shutil.rmtree(place)
    copy.rename(place)
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def refused(house, digest, match):
    with pytest.raises(ReleaseError, match=match) as caught:
        verify(house.store, digest, house.trusted)
    assert caught.value.hint
    return caught.value


# --- sealing


def test_a_release_is_verified_with_its_files_and_verdicts(house, digest):
    manifest = verify(house.store, digest, house.trusted)
    assert [a.path for a in manifest.tree.artifacts] == [
        "engine/1/model.bin",
        "engine/config.json",
    ]
    assert manifest.predicate.outcome is Outcome.PASSED
    assert manifest.predicate.tools == {"torch": "2"}
    assert manifest.signed_by == house.key.id


def test_a_release_is_made_of_links_into_the_store(house, digest):
    manifest = verify(house.store, digest, house.trusted)
    for artifact in manifest.tree.artifacts:
        blob = house.store.blobs.path(artifact.sha256)
        assert (house.place(digest) / artifact.path).samefile(blob)


def test_a_release_can_be_copied_out_like_any_tree(house, digest, tmp_path):
    whole = Tree.of(house.place(digest))
    house.store.materialise(whole, tmp_path / "out")
    assert Tree.of(tmp_path / "out") == whole


def test_equal_content_and_key_give_the_same_digest_in_any_store(house, tmp_path):
    other = type(house)(Store.at(tmp_path / "other"), house.key, house.trusted)
    assert house.sealed() == other.sealed()


def test_sealing_again_changes_nothing(house, digest):
    before = {path: path.stat().st_ino for path in house.place(digest).rglob("*")}
    assert house.sealed() == digest
    assert {path: path.stat().st_ino for path in house.place(digest).rglob("*")} == before


@pytest.mark.parametrize("change", [{"text": "other"}, {"latency": "passed"}])
def test_other_content_or_verdicts_give_another_digest(house, digest, change):
    assert house.sealed(**change) != digest


def test_another_key_gives_another_digest(house, digest, stranger):
    assert house.sealed(key=stranger) != digest


def test_files_and_directories_from_outside_are_copied_in(house, tmp_path):
    (tmp_path / "evidence" / "inner").mkdir(parents=True)
    (tmp_path / "evidence" / "inner" / "samples.jsonl").write_text("{}")
    (tmp_path / "report.html").write_text("<p>")
    parts = {"evidence": tmp_path / "evidence", "report.html": tmp_path / "report.html"}
    digest = seal(house.store, parts, SAID, house.key)
    (tmp_path / "report.html").write_text("changed later")
    manifest = verify(house.store, digest, house.trusted)
    assert [a.path for a in manifest.tree.artifacts] == [
        "evidence/inner/samples.jsonl",
        "report.html",
    ]
    assert (house.place(digest) / "report.html").read_text() == "<p>"


@pytest.mark.parametrize(
    "parts",
    [{"manifest.json": "file"}, {"a": "file", "a/b": "file"}, {"..": "file"}, {"": "file"},
     {"/etc": "file"}, {"a": "tree", "a/f": "file"}],
)  # fmt: skip
def test_parts_that_do_not_fit_together_are_refused(house, tmp_path, parts):
    (tmp_path / "file").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("y")
    with pytest.raises(ReleaseError, match="do not fit together"):
        seal(house.store, {n: tmp_path / p for n, p in parts.items()}, SAID, house.key)
    assert list((house.store.root / "releases").iterdir()) == []


def test_a_part_that_is_not_there_is_named(house, tmp_path):
    with pytest.raises(ReleaseError, match="gone: nothing there to seal"):
        seal(house.store, {"x": tmp_path / "gone"}, SAID, house.key)


def test_a_link_in_a_part_is_refused(house, tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(ReleaseError, match="passwd: only plain files"):
        seal(house.store, {"x": tmp_path / "part"}, SAID, house.key)


def test_a_tree_whose_blob_is_gone_is_refused(house):
    tree = Tree((Artifact("a", "0" * 64, 1),))
    with pytest.raises(ReleaseError, match=r"a: its copy in the store .* was damaged"):
        seal(house.store, {"x": tree}, SAID, house.key)


def test_a_damaged_blob_is_not_sealed(house):
    stage = house.store.run("s", inputs={}, work=lambda out: (out / "a").write_text("whole"))
    blob = house.store.blobs.path(stage.tree.artifacts[0].sha256)
    blob.chmod(0o644)
    blob.write_text("wHole")
    with pytest.raises(ReleaseError, match=r"x/a: its copy in the store .* was damaged"):
        seal(house.store, {"x": stage.tree}, SAID, house.key)
    again = house.store.run("s", inputs={}, work=lambda out: (out / "a").write_text("whole"))
    assert seal(house.store, {"x": again.tree}, SAID, house.key)


def test_a_full_disk_leaves_no_release(house):
    (house.store.root / "releases").mkdir(parents=True)
    (house.store.root / "enginesmith-store.json").write_text('{"layout":1}')
    tree = house.store.run("s", inputs={}, work=lambda out: (out / "a").write_text("1")).tree
    with (
        faults.Faults(house.store.root / "tmp", at=9, strike=faults.full),
        pytest.raises(ToolError, match=r"seal the release .* No space left"),
    ):
        seal(house.store, {"x": tree}, SAID, house.key)
    assert list((house.store.root / "releases").iterdir()) == []
    assert list((house.store.root / "tmp").iterdir()) == []


# --- tampering


def test_a_changed_file_is_refused(house, digest, place):
    (place / "engine" / "1" / "model.bin").write_text("wEights")
    refused(house, digest, r"engine/1/model\.bin was changed")


def test_a_truncated_file_is_refused(house, digest, place):
    (place / "engine" / "1" / "model.bin").write_text("")
    refused(house, digest, r"engine/1/model\.bin was changed")


def test_a_change_to_a_blob_shows_in_the_release(house, digest):
    path = house.place(digest) / "engine" / "1" / "model.bin"
    path.chmod(0o644)
    path.write_text("wEights")
    refused(house, digest, r"engine/1/model\.bin was changed")


def test_a_missing_file_is_refused(house, digest, place):
    (place / "engine" / "config.json").unlink()
    refused(house, digest, r"engine/config\.json is missing")


@pytest.mark.parametrize(
    "name", ["extra.py", ".git/evil.py", "engine/.hidden", "manifest.json.sig"]
)
def test_an_extra_file_is_refused(house, digest, place, name):
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_text("x")
    refused(house, digest, "does not belong to the release")


def test_an_extra_directory_is_refused(house, digest, place):
    (place / "engine" / "2").mkdir()
    refused(house, digest, "engine/2 does not belong to the release")


def test_a_file_replaced_by_a_link_to_the_same_bytes_is_refused(house, digest, place, tmp_path):
    path = place / "engine" / "config.json"
    (tmp_path / "same").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "same")
    refused(house, digest, r"engine/config\.json is a link")


def test_a_directory_replaced_by_a_link_is_refused(house, digest, place, tmp_path):
    (place / "engine").rename(tmp_path / "engine")
    (place / "engine").symlink_to(tmp_path / "engine")
    refused(house, digest, "engine is a link")


def test_a_file_replaced_by_a_directory_is_refused(house, digest, place):
    (place / "engine" / "config.json").unlink()
    (place / "engine" / "config.json").mkdir()
    refused(house, digest, r"engine/config\.json")


def test_a_pipe_is_refused_without_waiting_on_it(house, digest, place):
    (place / "engine" / "config.json").unlink()
    os.mkfifo(place / "engine" / "config.json")
    refused(house, digest, "is a link or a device")


def test_a_release_that_is_a_link_is_refused(house, digest, place, tmp_path):
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    refused(house, digest, "not a plain file in a plain directory")


def test_a_manifest_that_is_a_link_is_refused(house, digest, place, tmp_path):
    (place / "manifest.json").rename(tmp_path / "manifest.json")
    (place / "manifest.json").symlink_to(tmp_path / "manifest.json")
    refused(house, digest, r"manifest\.json is not a plain file")


def test_a_release_without_manifest_is_refused(house, digest, place):
    (place / "manifest.json").unlink()
    refused(house, digest, r"manifest\.json is missing")


def test_an_edited_manifest_is_refused(house, digest, place):
    raw = (place / "manifest.json").read_bytes()
    (place / "manifest.json").write_bytes(raw + b" ")
    refused(house, digest, r"manifest\.json was changed")


def test_the_manifest_of_another_release_is_refused(house, digest, place):
    other = house.place(house.sealed("other"))
    shutil.copyfile(other / "manifest.json", place / "manifest.json")
    refused(house, digest, r"manifest\.json was changed")


def test_a_huge_manifest_is_refused_unread(house, digest, place):
    with (place / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    refused(house, digest, "too large")


def planted(house, envelope):
    """Put an envelope into the store as a release of its own digest."""
    import hashlib

    digest = f"sha256:{hashlib.sha256(envelope).hexdigest()}"
    place = house.place(digest)
    place.mkdir(parents=True)
    (place / "manifest.json").write_bytes(envelope)
    return digest


def test_a_release_by_a_stranger_is_refused_with_how_to_trust(house, stranger):
    error = refused(house, house.sealed(key=stranger), "which is not trusted here")
    assert "put their public key into" in error.hint


def test_a_truncated_envelope_is_refused(house, digest):
    envelope = (house.place(digest) / "manifest.json").read_bytes()
    refused(house, planted(house, envelope[:-9]), "not as enginesmith writes it")


def test_a_second_signature_is_refused(house, digest, stranger):
    envelope = json.loads((house.place(digest) / "manifest.json").read_bytes())
    envelope["signatures"] *= 2
    refused(house, planted(house, json.dumps(envelope).encode()), "2 signatures")


def test_a_channels_record_is_no_manifest(house):
    envelope = house.key.sign(b'{"seq": 1}', CHANNEL_TYPE)
    refused(house, planted(house, envelope), "signed as 'application/vnd.enginesmith.channel")


def test_a_signed_statement_of_another_kind_is_no_manifest(house):
    statement = b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "slsa"}'
    envelope = house.key.sign(statement, "application/vnd.in-toto+json")
    refused(house, planted(house, envelope), "a statement of another kind")


def test_trusting_nobody_refuses_everything(house, digest, tmp_path):
    with pytest.raises(ReleaseError, match="not trusted"):
        verify(house.store, digest, Trusted(directory=tmp_path, keys={}))


def test_several_faults_name_the_first_and_count_the_rest(house, digest, place):
    shutil.rmtree(place / "engine")
    refused(house, digest, r"engine/1/model\.bin is missing \(and 1 more\)")


def test_a_release_that_is_not_there_is_named(house):
    refused(house, "sha256:" + "0" * 64, "there is no release sha256:000000000000")


@pytest.mark.parametrize("name", ["", "sha256:", "sha256:abc", "0" * 64, "sha256:../../etc"])
def test_what_is_no_digest_is_refused(house, name):
    with pytest.raises(UsageError, match="is not a release's digest"):
        sealing.directory(house.store, name)
