"""A channel's log only grows, whoever writes; what was lost or edited in it says so."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import files
from builders.errors import ReleaseError, ToolError, UsageError
from builders.release.channel import PAYLOAD_TYPE, Action, Channel, earlier, known
from builders.release.signing import Trusted
from builders.store import Store
from fakes import faults, victim

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


@pytest.fixture
def channel(house):
    return house.channel()


def promote(channel, *digests):
    for digest in digests:
        channel.point_to(digest, Action.PROMOTE, key=victim.KEY)


def log(channel):
    return channel.store.root / "channels" / channel.name / "log"


# --- moving


def test_a_channel_points_where_it_was_last_pointed(channel):
    promote(channel, A, B)
    assert channel.current().digest == B


def test_a_record_says_what_who_when_and_why(channel):
    promote(channel, A)
    entry = channel.point_to(B, Action.ROLLBACK, key=victim.KEY, reason="p99 doubled")
    assert (entry.seq, entry.digest, entry.previous) == (2, B, A)
    assert (entry.action, entry.by, entry.reason) == ("rollback", victim.KEY.id, "p99 doubled")
    assert entry.at.endswith("+00:00")
    assert channel.history()[-1] == entry


def test_pointing_where_it_points_already_changes_nothing(channel):
    promote(channel, A, B)
    before = channel.history()
    promote(channel, B)
    assert channel.history() == before


def test_each_record_is_a_read_only_file_with_its_number(channel):
    promote(channel, A, B)
    assert sorted(path.name for path in log(channel).iterdir()) == ["000001.json", "000002.json"]
    assert {path.stat().st_mode & 0o777 for path in log(channel).iterdir()} == {0o444}


def test_a_clock_that_goes_backwards_does_no_harm(channel, monkeypatch):
    from datetime import UTC, datetime

    class Early(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(1999, 1, 1, tzinfo=UTC)

    promote(channel, A)
    monkeypatch.setattr("builders.release.channel.datetime", Early)
    promote(channel, B)
    assert channel.current().digest == B


def test_channels_do_not_meet(house):
    promote(house.channel("cpu/stable"), A)
    promote(house.channel("cpu/candidate"), B)
    promote(house.channel("stable"), C)
    assert known(house.store) == ["cpu/candidate", "cpu/stable", "stable"]
    assert house.channel("cpu/stable").current().digest == A


# --- racing


def test_racing_processes_write_one_chain_without_gap_or_loss(tmp_path):
    root, out = tmp_path / "store", tmp_path / "out"
    argv = [sys.executable, victim.__file__, root, out, "channel"]
    racers = [subprocess.Popen([*argv, f"racer{number}", "5"]) for number in range(6)]
    assert [racer.wait(60) for racer in racers] == [0] * 6
    history = Channel.named(Store.at(root), "cpu/stable", victim.TRUSTED).history()
    assert [entry.seq for entry in history] == list(range(1, 31))
    assert {f"{entry.seq} {entry.digest}" for entry in history} == set(out.read_text().splitlines())


def test_racing_to_the_same_digest_writes_one_record(channel):
    threads = [threading.Thread(target=promote, args=(channel, A)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(channel.history()) == 1


def test_a_disk_that_refuses_leaves_the_channel_as_it_was(channel):
    promote(channel, A)
    with faults.Faults(log(channel)) as count:
        promote(channel, B)
    for moment in range(1, count.seen + 1):
        shutil.rmtree(log(channel))
        promote(channel, A)
        with (
            contextlib.suppress(ToolError),
            faults.Faults(log(channel), at=moment, strike=faults.full),
        ):
            promote(channel, B)
        assert channel.current().digest in {A, B}
        promote(channel, B)
        assert [entry.digest for entry in channel.history()] == [A, B]


def test_a_full_disk_is_one_line_with_a_next_step(channel, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: faults.full("record"))
    with pytest.raises(ToolError, match="move channel cpu/stable: No space left") as caught:
        promote(channel, A)
    assert "free space" in caught.value.hint


# --- names


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a//b", "..", "../a", "a/..", "a..b", ".a", "a b", "a\n", "a/b/c", "log",
     "cpu/log", "é", "a\0", "-a", "sha256:" + "0" * 64],
)  # fmt: skip
def test_what_is_no_name_is_refused(house, name):
    with pytest.raises(UsageError, match="is not a channel's name"):
        house.channel(name)


@given(st.from_regex(r"[a-zA-Z0-9._/-]{1,20}", fullmatch=True) | st.text(max_size=20))
def test_a_name_never_leaves_the_directory_of_channels(name):
    store = Store.at(files.Path("/nowhere"))
    try:
        channel = Channel.named(store, name, victim.TRUSTED)
    except UsageError:
        return
    root = store.root / "channels"
    assert root in log(channel).resolve().parents


def test_an_unknown_channel_is_refused_with_the_nearest_and_all_known(house):
    promote(house.channel("cpu/stable"), A)
    promote(house.channel("h100/stable"), A)
    with pytest.raises(ReleaseError, match="there is no channel cpu/stabel") as caught:
        house.channel("cpu/stabel").current()
    assert caught.value.hint == "did you mean cpu/stable?; known: cpu/stable, h100/stable"


def test_an_unknown_channel_in_an_empty_store_says_so(house):
    with pytest.raises(ReleaseError) as caught:
        house.channel().current()
    assert caught.value.hint == "no channel has a release yet"
    assert house.channel().history() == ()
    assert not house.store.root.exists()


# --- what was lost or edited


@pytest.mark.parametrize("lost", [1, 2])
def test_a_gap_is_refused(channel, lost):
    promote(channel, A, B, C)
    (log(channel) / f"{lost:06d}.json").unlink()
    with pytest.raises(
        ReleaseError, match=f"channel cpu/stable: record {lost} is missing"
    ) as caught:
        channel.current()
    assert "restore the log" in caught.value.hint


def test_swapped_records_are_refused(channel):
    promote(channel, A, B, C)
    one, two = (log(channel) / f"{number:06d}.json" for number in (2, 3))
    kept = one.read_bytes()
    two.replace(one)
    two.write_bytes(kept)
    with pytest.raises(ReleaseError, match="record 2 does not follow"):
        channel.history()


def test_a_record_of_another_history_is_refused(channel, tmp_path):
    """Same number, same key, same release before it; but another record came first."""
    promote(channel, A, B)
    other = Channel.named(Store.at(tmp_path / "other"), "cpu/stable", victim.TRUSTED)
    other.point_to(A, Action.PROMOTE, key=victim.KEY, reason="another day")
    promote(other, C)
    target = log(channel) / "000002.json"
    target.unlink()
    shutil.copy(log(other) / "000002.json", target)
    with pytest.raises(ReleaseError, match="record 2 does not follow"):
        channel.current()


def test_a_record_of_another_channel_is_refused(house):
    promote(house.channel("cpu/candidate"), A)
    channel = house.channel("cpu/stable")
    log(channel).mkdir(parents=True)
    shutil.copy(log(house.channel("cpu/candidate")) / "000001.json", log(channel))
    with pytest.raises(ReleaseError, match="record 1 does not follow"):
        channel.current()


def test_an_edited_record_is_refused(channel):
    promote(channel, A)
    path = log(channel) / "000001.json"
    raw = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(raw[:-40] + raw[-40:].swapcase())
    with pytest.raises(ReleaseError, match="record 1 of channel cpu/stable"):
        channel.current()


def test_a_truncated_record_is_refused(channel):
    promote(channel, A)
    path = log(channel) / "000001.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ReleaseError, match="record 1 of channel cpu/stable: not as enginesmith"):
        channel.current()


def test_a_record_by_a_key_that_is_not_trusted_is_refused(channel, stranger):
    promote(channel, A)
    channel.point_to(B, Action.PROMOTE, key=stranger)
    with pytest.raises(ReleaseError, match=r"record 2 .* which is not trusted here"):
        channel.current()


def test_a_record_that_names_another_key_than_signed_it_is_refused(channel, stranger):
    promote(channel, A)
    payload = json.dumps(
        {"channel": "cpu/stable", "seq": 1, "digest": B, "previous": "", "after": ""}
        | {"action": "promote", "by": stranger.id, "at": "", "reason": ""}
    )
    path = log(channel) / "000001.json"
    path.chmod(0o644)
    path.write_bytes(victim.KEY.sign(payload.encode(), PAYLOAD_TYPE))
    with pytest.raises(ReleaseError, match="another one signed it"):
        channel.current()


def test_a_signed_record_of_another_shape_is_refused(channel):
    promote(channel, A)
    path = log(channel) / "000001.json"
    path.chmod(0o644)
    path.write_bytes(victim.KEY.sign(b'{"seq": "one"}', PAYLOAD_TYPE))
    with pytest.raises(ReleaseError, match=r"record 1 .* not as enginesmith writes it"):
        channel.current()


def test_nobody_trusted_means_nothing_is_believed(house, tmp_path):
    promote(house.channel(), A)
    nobody = Trusted(directory=tmp_path, keys={})
    with pytest.raises(ReleaseError, match="not trusted"):
        Channel.named(house.store, "cpu/stable", nobody).current()


def test_the_beginnings_of_a_killed_writer_are_no_record(channel):
    promote(channel, A)
    (log(channel) / ".x7").write_text("{")
    (log(channel) / "000002.json.bak").write_text("{")
    assert channel.current().digest == A


# --- going back


def walked(channel, *steps):
    """Write records: ``+A`` promotes, ``-A`` rolls back; return where undoing would lead."""
    for step in steps:
        action = Action.PROMOTE if step[0] == "+" else Action.ROLLBACK
        channel.point_to(step[1:], action, key=victim.KEY)
    found = earlier(channel.history())
    return found and found.digest


@pytest.mark.parametrize(
    ("steps", "target"),
    [
        ("", None),
        ("+a", None),
        ("+a +b", "a"),
        ("+a +b +c", "b"),
        ("+a +b +c -b", "a"),
        ("+a +b -a", None),
        ("+a +b -a +c", "a"),
        ("+a +b -a -b", "a"),
        ("+a +b +a", "b"),
    ],
)
def test_undoing_leads_to_the_promotion_before_the_one_in_force(channel, steps, target):
    assert walked(channel, *steps.split()) == target


def test_entries_are_values(channel):
    promote(channel, A)
    assert replace(channel.current(), seq=1) == channel.current()
