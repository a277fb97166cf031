"""Move a channel: forward to a release that passed what its policy requires, or back."""

from collections.abc import Iterable

from builders.errors import ReleaseError, UsageError
from builders.release import seal
from builders.release.channel import Action, Channel, Entry, earlier
from builders.release.signing import SigningKey, Trusted
from builders.store import Store


def promote(
    channel: Channel, digest: str, *, required: Iterable[str], key: SigningKey, reason: str = ""
) -> Entry:
    """Point the channel to a release that is whole and passed every gate its policy requires.

    The list comes from the channel's policy, never from the release; a policy that requires
    nothing has judged nothing.
    """
    found = seal.verify(channel.store, digest, channel.trusted)
    gates = tuple(required)
    if not gates:
        raise ReleaseError(
            f"the policy of channel {channel.name} requires no gate",
            hint="name one gate at least: no verdict is not a passed one",
        )
    if stand_ins := found.predicate.stand_ins:
        raise ReleaseError(
            f"{digest[:19]}… was measured with a stand-in: {', '.join(stand_ins)}",
            hint="a stand-in proves nothing: judge it with the real one",
        )
    if lacking := found.predicate.without(gates):
        raise ReleaseError(
            f"{digest[:19]}… lacks a passed verdict for {', '.join(lacking)}; "
            f"{channel.name} stays where it is",
            hint="only passed opens a gate; the report in the bundle shows the intervals",
        )
    return channel.point_to(digest, Action.PROMOTE, key=key, reason=reason)


def rollback(
    channel: Channel, *, to: int | None = None, key: SigningKey, reason: str = ""
) -> Entry:
    """Point the channel back to an earlier record's release, after proving that one whole.

    Without ``to`` that is the promotion before the one in force.
    """
    channel.current()  # refuses a channel that is unknown
    history = channel.history()
    target = earlier(history) if to is None else _at(history, to)
    if target is None:
        raise ReleaseError(
            f"channel {channel.name} has nothing earlier to go back to",
            hint=f"its {len(history)} record(s): enginesmith history {channel.name}",
        )
    seal.verify(channel.store, target.digest, channel.trusted)
    return channel.point_to(target.digest, Action.ROLLBACK, key=key, reason=reason)


def resolve(store: Store, name: str, trusted: Trusted) -> str:
    """Return the digest that a channel's name or a digest, shortened to 8 digits or more, means."""
    if not name.startswith("sha256:"):
        return Channel.named(store, name, trusted).current().digest
    wanted = name.removeprefix("sha256:")
    if len(wanted) < 8:
        raise UsageError(f"{name}: too short", hint="give eight digits of the digest at least")
    places = sorted(path.name for path in (store.root / "releases").glob("*"))
    found = [place for place in places if place.startswith(wanted)]
    if len(found) != 1:
        what = "more than one release begins" if found else "no release begins"
        raise ReleaseError(
            f"{what} with {name} in {store.root}", hint="enginesmith history CHANNEL"
        )
    return f"sha256:{found[0]}"


def _at(history: tuple[Entry, ...], seq: int) -> Entry:
    if not 1 <= seq <= len(history):
        raise ReleaseError(
            f"channel {history[0].channel} has no record {seq}",
            hint=f"its records are 1 to {len(history)}",
        )
    return history[seq - 1]
