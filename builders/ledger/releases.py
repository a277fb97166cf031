"""Versions of the runtimes: their lanes, the images that carry them, what is known to be unsafe."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from builders.errors import UsageError
from builders.ledger.version import Version
from builders.parse import Table, nearest, read_toml
from builders.tiers import GIB, Tier

RUNTIMES: Final = ("embedded", "trtllm", "vllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One way to run a runtime, the versions that have it ("" : no bound), and why others do not.

    Up to ``default_until`` it is what a plan means that names no lane.
    """

    name: str
    runtime: str
    since: str
    until: str
    default_until: str
    why_not: str
    remedy: str

    def has(self, version: Version | None) -> bool:
        """Whether this version has the lane; a runtime without versions always has."""
        return version is None or _within(version, self.since, self.until)

    def leads(self, version: Version | None) -> bool:
        """Whether this version prefers the lane to its others."""
        return bool(self.default_until) and version is not None and self.has(version) and (
            version <= Version.parse(self.default_until)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One TensorRT-LLM release and what stands around it in its Triton images ("" : not read)."""

    version: str
    tags: tuple[str, ...] = ()
    tensorrt: str = ""
    cuda: str = ""
    driver: str = ""
    torch: str = ""
    python: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """A known vulnerability of a product and the version that mends it ("" : not read)."""

    product: str
    cves: tuple[str, ...]
    what: str
    fixed_in: str
    verified: bool
    source: str


@cache
def data(name: str) -> Mapping[str, object]:
    """Read one of the ledger's own TOML files."""
    with resources.as_file(resources.files("builders.ledger") / name) as path:
        return read_toml(path)


def entries(name: str, key: str) -> list[Table]:
    """Return the tables of one array of a ledger file; their errors name file, key and place."""
    found = data(name).get(key)
    assert isinstance(found, list)
    return [Table(entry, place=f"{name} {key} {at}") for at, entry in enumerate(found, start=1)]


@cache
def lanes() -> tuple[Lane, ...]:
    """Return every lane of every runtime."""
    return tuple(_lane(table) for table in entries("releases.toml", "lane"))


@cache
def releases() -> tuple[Release, ...]:
    """Return the TensorRT-LLM releases, newest first."""
    return tuple(_release(table) for table in entries("releases.toml", "release"))


def release(version: str) -> Release:
    """Return what is known of one TensorRT-LLM version, which may be its number alone."""
    wanted = Version.parse(version)
    found = (entry for entry in releases() if Version.parse(entry.version) == wanted)
    return next(found, Release(version=version))


def triton_image(version: str) -> str:
    """Return the newest Triton image that carries this TensorRT-LLM, or "" when none is known."""
    tags = release(version).tags
    return _section("images").text("triton").format(tag=tags[-1]) if tags else ""


def trtllm_image(version: str) -> str:
    """Return TensorRT-LLM's own image of this version."""
    return _section("images").text("trtllm").format(version=Version.parse(version))


def newest(runtime: str) -> str:
    """Return the version that a plan means when it names none."""
    return _section("newest").text(_known(runtime))


def walked(runtime: str) -> tuple[str, ...]:
    """Return the versions that the matrix walks."""
    return _section("matrix").texts(_known(runtime))


def version_of(runtime: str, version: str) -> Version | None:
    """Parse a runtime's version; "" is its newest, and the embedded runtime has none."""
    text = version or newest(runtime)
    return Version.parse(text) if text and runtime != "embedded" else None


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return the known vulnerabilities of Triton and TensorRT-LLM."""
    return tuple(_advisory(table) for table in entries("advisories.toml", "advisory"))


def minimum(product: str) -> str:
    """Return the least version of a product that mends every flaw whose remedy is known."""
    known = [a.fixed_in for a in advisories() if a.product == product and a.fixed_in]
    return max(known, key=Version.parse, default="")


def unsafe(product: str, version: str) -> tuple[Advisory, ...]:
    """Return the flaws that this version of a product is known to have."""
    at = Version.parse(version)
    known = (a for a in advisories() if a.product == product and a.fixed_in)
    return tuple(a for a in known if at < Version.parse(a.fixed_in))


@cache
def usable_bytes(tier: Tier) -> int:
    """Return what one process can allocate on a GPU of this tier: less than the name says."""
    for table in entries("memory.toml", "usable"):
        if table.text("tier") == tier.name:
            return int(table.number("gib") * GIB)
    return tier.memory_bytes * 97 // 100


def _within(version: Version, since: str, until: str) -> bool:
    return (not since or version >= Version.parse(since)) and (
        not until or version <= Version.parse(until)
    )


def _section(name: str) -> Table:
    found = data("releases.toml")[name]
    assert isinstance(found, Mapping)
    return Table(found, place="releases.toml", prefix=f"{name}.")


def _known(runtime: str) -> str:
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}", hint=nearest(runtime, RUNTIMES))
    return runtime


def _lane(table: Table) -> Lane:
    with table:
        table.text("source")
        return Lane(
            name=table.text("name"),
            runtime=table.text("runtime"),
            since=table.text("since"),
            until=table.text("until"),
            default_until=table.text("default_until"),
            why_not=table.text("why_not"),
            remedy=table.text("remedy"),
        )


def _release(table: Table) -> Release:
    with table:
        return Release(
            version=table.text("version"),
            tags=table.texts("tags"),
            tensorrt=table.text("tensorrt", ""),
            cuda=table.text("cuda", ""),
            driver=table.text("driver", ""),
            torch=table.text("torch", ""),
            python=table.text("python", ""),
        )


def _advisory(table: Table) -> Advisory:
    with table:
        return Advisory(
            product=table.text("product"),
            cves=table.texts("cves"),
            what=table.text("what"),
            fixed_in=table.text("fixed_in"),
            verified=table.flag("verified"),
            source=table.text("source"),
        )
