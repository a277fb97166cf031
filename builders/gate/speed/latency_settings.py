"""What a policy says of the latency gate: the load, what is judged, what voids a run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from builders import files
from builders.errors import UsageError
from builders.gate import jsonl, margins
from builders.gate.speed import traffic
from builders.gate.speed.blocks import supported
from builders.gate.speed.goodput import Slo
from builders.gate.speed.lengths import Lengths
from builders.gate.speed.slowdown import MEASURES
from builders.gate.speed.traffic import Load
from builders.parse import Table

FORM: Final = 2  # raised when the same settings would measure something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The load, and by how much of itself each measure may be slower; one without is not judged.

    ``client_share`` is how late the client itself may be, as a share of what it measures.
    ``utilization`` sets the rate to a share of what the baseline can do, found out first.
    ``controls`` pairs of the baseline against itself try the instrument (0: none do); ``few`` is
    set for a control only: it replays so many requests of a record.
    """

    load: Load
    confidence: float
    margins: Mapping[str, float]
    prompts: Path | None = None
    record: Path | None = None
    speed: float = 1.0
    utilization: float | None = None
    slo: Slo | None = None
    client_share: float = 0.25
    void_on_drift: bool = False
    void_on_throttle: bool = True
    controls: int = 0
    few: int = 0

    @property
    def size(self) -> int:
        """How many requests are judged, both sides of a pair counting once."""
        return self.load.pairs * self.loaded().requests

    def loaded(self) -> Load:
        """Return the load with the prompts and the traffic that stand in files."""
        recorded = traffic.read(self.record, speed=self.speed) if self.record else ()
        recorded = recorded[: self.few or len(recorded)]
        return replace(
            self.load,
            texts=_texts(self.prompts) if self.prompts else (),
            recorded=recorded,
            requests=len(recorded) or self.load.requests,
        )


class Mode(Enum):
    """How requests come: so many in flight, by chance at a rate, or as they were recorded."""

    CLOSED = "closed"
    OPEN = "open"
    REPLAY = "replay"


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; a measure without a margin is reported and not judged."""
    with table:
        mode = table.choice("mode", Mode, Mode.CLOSED)
        prompts = table.text("prompts", "")
        settings = Settings(
            load=_load(table, mode, beside),
            confidence=confidence,
            margins=_margins(table),
            prompts=beside / prompts if prompts else None,
            record=beside / table.text("record") if mode is Mode.REPLAY else None,
            speed=table.number("speed", 1.0, least=1e-3) if mode is Mode.REPLAY else 1.0,
            utilization=margins.optional(table, "utilization") if mode is Mode.OPEN else None,
            slo=_slo(table),
            client_share=table.number("client_share", 0.25),
            void_on_drift=table.flag("void_on_drift", default=False),
            void_on_throttle=table.flag("void_on_throttle", default=True),
            controls=table.whole("controls", 4),
        )
    _refuse_useless(settings, mode)
    return settings


def _load(table: Table, mode: Mode, beside: Path) -> Load:
    return Load(
        pairs=table.whole("pairs", 8, least=4),
        requests=24 if mode is Mode.REPLAY else table.whole("requests", 24, least=2),
        warm_up=table.whole("warm_up", 4),
        concurrency=table.whole("concurrency", 4 if mode is Mode.CLOSED else 16, least=1),
        words=_words(table, beside),
        tokens=_tokens(table, beside),
        rate=margins.optional(table, "rate") if mode is Mode.OPEN else None,
        seed=table.whole("seed", 0),
        timeout=table.number("timeout", 120.0, least=0.1),
    )


def _words(table: Table, beside: Path) -> Lengths:
    """Read how long prompts are: a table, or the ends of a range."""
    own = table.table("prompt_words")
    low, high = table.whole("least_words", 16, least=1), table.whole("most_words", 64, least=1)
    if high < low:
        raise UsageError("latency.most_words is below latency.least_words")
    return _shaped(own, beside, 1) or Lengths.uniform(low, high)


def _tokens(table: Table, beside: Path) -> Lengths:
    """Read how long answers are: a table, or one number."""
    own = table.table("answer_tokens")
    one = table.whole("output_tokens", 32, least=2)
    return _shaped(own, beside, 2) or Lengths.fixed(one)


def _shaped(table: Table, beside: Path, least: int) -> Lengths | None:
    """Read a distribution; a table that says nothing is none."""
    with table:
        if not table.text("shape", ""):
            return None
        return Lengths.parse(table, beside=beside, least=least)


def _margins(table: Table) -> dict[str, float]:
    found = {name: margins.optional(table, f"{name}_margin") for name in MEASURES}
    return {name: margin for name, margin in found.items() if margin is not None}


def _slo(table: Table) -> Slo | None:
    own = table.table("slo")
    with own:
        return None if margins.optional(own, "ttft_ms") is None else Slo.parse(own)


def _refuse_useless(settings: Settings, mode: Mode) -> None:
    load = settings.load
    if load.pairs % 2:
        raise UsageError(
            f"latency.pairs = {load.pairs} is odd",
            hint="with an even number the order ABBA cancels a steady drift of the machine",
        )
    if settings.controls % 2 or settings.controls == 2:
        raise UsageError(
            f"latency.controls = {settings.controls} is not an even number of pairs from 4 on",
            hint="4 are usual; 0 judges without controls",
        )
    if not settings.margins and settings.slo is None:
        raise UsageError(
            "latency: nothing is judged",
            hint=f"set {', '.join(f'{name}_margin' for name in MEASURES)} or a table slo",
        )
    if mode is Mode.OPEN and bool(load.rate) == bool(settings.utilization):
        raise UsageError(
            "latency: an open loop needs either rate or utilization",
            hint="utilization = 0.7 sends seven tenths of what the baseline can do",
        )
    if mode is not Mode.CLOSED and "tps" in settings.margins:
        raise UsageError(
            "latency: in an open loop the rate is ours and tps says nothing of the server",
            hint='judge request_tps, or set mode = "closed"',
        )
    if mode is not Mode.REPLAY:
        _refuse_tails(settings, settings.load)


def _refuse_tails(settings: Settings, load: Load) -> None:
    """Refuse a tail that so few requests of a block could not bound."""
    for name in settings.margins:
        if not _bounded(load, name):
            raise UsageError(
                f"latency.{name}_margin: {load.requests} requests do not bound that tail",
                hint="raise latency.requests: 72 for a p95, 368 times or tokens for a p99",
            )


def _bounded(load: Load, name: str) -> bool:
    """Whether so many requests of a block bound what is judged."""
    drawn = load.requests * load.tokens.most
    counts = {
        "ttft_p95": load.requests,
        "itl_p99": sum(one.output_tokens for one in load.recorded) or drawn,
    }
    share = MEASURES[name].share
    return name not in counts or share is None or supported(counts[name], share)


def few(settings: Settings) -> Settings | None:
    """Return the settings under which a control is measured; None where none is.

    Fewer pairs of fewer requests: enough to fill the server twice, and to bound what is judged. One
    request warms each block up: its server has just answered the block before.
    """
    if not (settings.controls and settings.margins):
        return None
    load = settings.loaded()
    least = min(2 * load.concurrency, load.requests)
    fitting = (
        count
        for count in range(max(least, 2), load.requests)
        if all(_bounded(_cut(load, count), name) for name in settings.margins)
    )
    requests = next(fitting, load.requests)
    own = replace(
        settings.load,
        pairs=min(settings.controls, load.pairs),
        requests=requests,
        warm_up=min(load.warm_up, 1),
    )
    return replace(settings, load=own, slo=None, few=requests)


def _cut(load: Load, requests: int) -> Load:
    return replace(load, requests=requests, recorded=load.recorded[:requests])


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement; the alarms can void it."""
    load = settings.load
    found: dict[str, object] = {
        "form": FORM,
        "pairs": load.pairs,
        "requests": load.requests,
        "warm_up": load.warm_up,
        "concurrency": load.concurrency,
        "prompt_words": load.words.as_json(),
        "answer_tokens": load.tokens.as_json(),
        "rate": load.rate,
        "utilization": settings.utilization,
        "seed": load.seed,
        "timeout": load.timeout,
        "client_share": settings.client_share,
        "void_on_drift": settings.void_on_drift,
        "void_on_throttle": settings.void_on_throttle,
    }
    if settings.few:
        found["few"] = settings.few
    if settings.slo is not None:
        found["slo"] = settings.slo.as_json()
    if settings.record is not None:
        found |= {"record": files.digest(settings.record), "speed": settings.speed}
    if settings.prompts is not None:
        found["prompts"] = files.digest(settings.prompts)
    return found


def check(settings: Settings) -> None:
    """Refuse a file of prompts or of traffic with any fault, naming the line, or too few of it."""
    _refuse_tails(settings, settings.loaded())


def _texts(path: Path) -> tuple[str, ...]:
    """Read the prompts of a JSONL file; other keys than ``prompt`` are somebody else's."""
    found = []
    for number, data in jsonl.objects(path):
        text = data.get("prompt")
        if not isinstance(text, str) or not text:
            raise UsageError(f"{path}:{number}: no prompt", hint='{"prompt": "some text"}')
        found.append(text)
    if not found:
        raise UsageError(f"{path}: no prompts", hint="give one at least")
    return tuple(found)
