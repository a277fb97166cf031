"""A channel moves only to a release that is whole and passed; and back only to one still whole."""

import pytest

from builders.errors import ReleaseError, UsageError
from builders.release.channel import Action
from builders.release.promotion import promote, resolve, rollback

GATES = ("perplexity", "latency")


@pytest.fixture
def channel(house):
    return house.channel()


def released(house, text):
    """Seal and promote a release whose gates all passed."""
    digest = house.sealed(text, perplexity="passed", latency="passed")
    promote(house.channel(), digest, required=GATES, key=house.key)
    return digest


def damage(house, digest):
    path = house.place(digest) / "engine" / "1" / "model.bin"
    path.chmod(0o644)
    path.write_text("damaged")


def test_a_release_that_passed_is_promoted(house, channel):
    digest = released(house, "one")
    entry = channel.current()
    assert (entry.digest, entry.action, entry.by) == (digest, Action.PROMOTE, house.key.id)


def test_promoting_again_changes_nothing(house, channel):
    released(house, "one")
    released(house, "one")
    assert len(channel.history()) == 1


@pytest.mark.parametrize("outcome", ["failed", "inconclusive"])
def test_a_release_with_a_gate_that_did_not_pass_is_refused(house, channel, outcome):
    digest = house.sealed(perplexity="passed", latency=outcome)
    with pytest.raises(ReleaseError, match=rf"lacks a passed verdict for latency \({outcome}\)"):
        promote(channel, digest, required=GATES, key=house.key)
    assert channel.history() == ()


def test_a_release_that_was_not_judged_by_a_required_gate_is_refused(house, channel):
    digest = house.sealed(perplexity="passed")
    with pytest.raises(ReleaseError, match=r"latency \(not judged\); cpu/stable stays"):
        promote(channel, digest, required=GATES, key=house.key)


@pytest.mark.parametrize("version", ["1.2.1+standin", "1.2.1+cpu.stand.in", "0.0.0+Stand-in"])
def test_what_was_measured_with_a_stand_in_is_never_promoted(house, channel, version):
    digest = house.sealed(
        perplexity="passed", latency="passed", tools={"torch": "2+cpu", "tensorrt_llm": version}
    )
    with pytest.raises(ReleaseError, match="measured with a stand-in: tensorrt_llm"):
        promote(channel, digest, required=GATES, key=house.key)
    assert channel.history() == ()


def test_a_gate_that_the_policy_does_not_require_may_fail(house, channel):
    digest = house.sealed(perplexity="passed", prompts="failed")
    promote(channel, digest, required=("perplexity",), key=house.key)
    assert channel.current().digest == digest


def test_a_policy_that_requires_nothing_is_refused(house, channel):
    with pytest.raises(ReleaseError, match="requires no gate"):
        promote(channel, house.sealed(), required=(), key=house.key)


def test_a_damaged_release_is_not_promoted(house, channel):
    digest = house.sealed()
    damage(house, digest)
    with pytest.raises(ReleaseError, match="was changed"):
        promote(channel, digest, required=("perplexity",), key=house.key)
    assert channel.history() == ()


def test_a_strangers_release_is_not_promoted(house, channel, stranger):
    digest = house.sealed(key=stranger)
    with pytest.raises(ReleaseError, match="not trusted"):
        promote(channel, digest, required=("perplexity",), key=house.key)


def test_rolling_back_returns_to_the_promotion_before_as_a_new_record(house, channel):
    one, two = released(house, "one"), released(house, "two")
    entry = rollback(channel, key=house.key, reason="p99 doubled")
    assert (entry.seq, entry.digest, entry.previous) == (3, one, two)
    assert (entry.action, entry.reason) == (Action.ROLLBACK, "p99 doubled")


def test_rolling_back_twice_goes_back_two(house, channel):
    one, _, _ = (released(house, text) for text in ("one", "two", "three"))
    rollback(channel, key=house.key)
    assert rollback(channel, key=house.key).digest == one


def test_rolling_back_to_a_number_goes_there(house, channel):
    _, two, _ = (released(house, text) for text in ("one", "two", "three"))
    assert rollback(channel, to=2, key=house.key).digest == two


def test_rolling_back_to_where_it_points_changes_nothing(house, channel):
    released(house, "one")
    assert rollback(channel, to=1, key=house.key).seq == 1


def test_there_is_nothing_before_the_first_release(house, channel):
    released(house, "one")
    with pytest.raises(ReleaseError, match="has nothing earlier") as caught:
        rollback(channel, key=house.key)
    assert "1 record" in caught.value.hint


@pytest.mark.parametrize("to", [-1, 0, 3, 99])
def test_rolling_back_beyond_the_history_is_refused(house, channel, to):
    released(house, "one")
    released(house, "two")
    with pytest.raises(ReleaseError, match=f"has no record {to}") as caught:
        rollback(channel, to=to, key=house.key)
    assert caught.value.hint == "its records are 1 to 2"
    assert len(channel.history()) == 2


def test_rolling_back_to_a_damaged_release_is_refused(house, channel):
    one = released(house, "one")
    released(house, "two")
    damage(house, one)
    with pytest.raises(ReleaseError, match="was changed"):
        rollback(channel, key=house.key)
    assert len(channel.history()) == 2


def test_rolling_back_an_unknown_channel_is_refused(house):
    released(house, "one")
    with pytest.raises(ReleaseError, match="there is no channel cpu/stabel") as caught:
        rollback(house.channel("cpu/stabel"), key=house.key)
    assert "did you mean cpu/stable?" in caught.value.hint


def test_a_name_resolves_to_the_release_its_channel_points_to(house):
    digest = released(house, "one")
    assert resolve(house.store, "cpu/stable", house.trusted) == digest


@pytest.mark.parametrize("length", [8, 40, 64])
def test_a_digest_resolves_to_itself_even_shortened(house, length):
    digest = house.sealed()
    assert resolve(house.store, digest[: 7 + length], house.trusted) == digest


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("cpu/nightly", ReleaseError, "there is no channel cpu/nightly"),
        ("sha256:" + "0" * 64, ReleaseError, "no release begins with"),
        ("sha256:", UsageError, "too short"),
        ("../releases", UsageError, "is not a channel's name"),
    ],
)
def test_what_names_nothing_is_refused(house, name, error, says):
    house.sealed()
    with pytest.raises(error, match=says):
        resolve(house.store, name, house.trusted)


def test_a_shortened_digest_that_fits_two_releases_is_refused(house):
    for tail in "ab":
        (house.store.root / "releases" / ("12345678" + tail * 56)).mkdir(parents=True)
    with pytest.raises(ReleaseError, match="more than one release begins"):
        resolve(house.store, "sha256:12345678", house.trusted)
