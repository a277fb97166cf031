"""One ordinary report, and the text and the reader that the hostile ones need."""

import random
from html.parser import HTMLParser

import pytest

from builders.report import Latency, Report, Samples, Sizes, Stage
from builders.verdict import Verdict

HOSTILE = "</title><script>alert('1')</script>\"><img src=x onerror=y>&amp;|`*_[x](y)"
VOID = {"meta", "link", "br", "hr", "img", "input"}
SELF_CLOSING = {"rect", "line", "path", "circle"}


def make_verdict(gate="perplexity", **changes):
    numbers = {"worse_by": 0.003, "low": 0.001, "high": 0.005, "margin": 0.01}
    return Verdict(**{"gate": gate, "units": 280, "unit": "relative", **numbers, **changes})


def make_samples(seed, count):
    chance = random.Random(seed)
    return Samples(
        ttft_ms=tuple(chance.lognormvariate(4, 0.3) for _ in range(count)),
        itl_ms=tuple(chance.lognormvariate(2, 0.2) for _ in range(4 * count)),
        tokens_per_second=tuple(chance.gauss(90, 5) for _ in range(count)),
    )


class Outline(HTMLParser):
    """Reads a page strictly: every tag closed in order; remembers tags, attributes and text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice: {tag} {attrs}"
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSING, f"<{tag}/> does not close itself in HTML"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).replace("\xa0", " ").split())

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture
def outline():
    return Outline


@pytest.fixture
def hostile():
    return HOSTILE


@pytest.fixture
def verdict():
    return make_verdict


@pytest.fixture(scope="session")
def report():
    return Report(
        title="tiny-llama",
        channel="cpu/stable",
        verdicts=(
            make_verdict(detail="12.31 against 12.35.", numbers=(("baseline_ppl", 12.31),)),
            make_verdict("accuracy", low=-0.02, high=0.013, margin=0.03, unit="share of answers"),
            make_verdict("latency/ttft", low=-0.05, high=0.02, margin=0.1),
        ),
        policy="demo",
        required=("perplexity", "accuracy", "latency"),
        facts=(("Checkpoint", "demo/model"), ("Recipe", "fp8"), ("Scheme", "W8A8KV8")),
        sizes=Sizes(baseline_bytes=8_400_000, candidate_bytes=4_200_000),
        latency=Latency(baseline=make_samples(1, 100), candidate=make_samples(2, 100)),
        stages=(
            Stage(name="quantize", key="ab" * 32, cached=False, seconds=31.4),
            Stage(name="build", key="cd" * 32, cached=True, seconds=0.01),
        ),
        versions=(("torch", "2.13.0"), ("tritonserver", "2.51.0")),
        notes=("The margins are chosen for a model of 4 million parameters.",),
    )
