"""The page is whole, well-formed, self-contained, safe against any text, and deterministic."""

import re
from dataclasses import replace
from itertools import pairwise

import jinja2
import pytest

from builders.report import Latency, Samples, Sizes, Stage, as_html, page
from builders.verdict import Verdict

NAN, INF = float("nan"), float("inf")


def extreme(verdict):
    return (
        verdict("not measured", worse_by=NAN, low=NAN, high=NAN),
        verdict("unbounded", low=-INF, high=INF),
        verdict("ruined", worse_by=5e11, low=4e11, high=INF),
        verdict("much better", worse_by=-5, low=-6, high=-4),
        verdict("no margin", margin=0.0),
    )


@pytest.fixture(params=["ordinary", "extreme", "empty", "bare"])
def any_report(request, report, verdict):
    return {
        "ordinary": report,
        "extreme": replace(report, verdicts=extreme(verdict), required=("absent",)),
        "empty": replace(
            report, verdicts=(), latency=Latency(baseline=Samples(), candidate=Samples())
        ),
        "bare": replace(
            report, sizes=None, latency=None, facts=(), stages=(), versions=(), notes=()
        ),
    }[request.param]


def test_every_tag_is_closed_in_order(any_report, outline):
    tags = outline(as_html(any_report)).tags
    assert tags[:2] == ["html", "head"]
    assert tags.count("h1") == 1


def test_nothing_is_loaded_from_anywhere(any_report, outline):
    html = as_html(any_report)
    read = outline(html)
    assert {"script", "link", "img", "iframe", "object", "base"}.isdisjoint(read.tags)
    assert {"src", "href", "action", "srcset", "style"}.isdisjoint(
        {name for tag, name, _ in read.attributes if tag != "path"}
    )
    assert "://" not in html
    assert not re.search(r"url\(|@import", html)
    assert "default-src 'none'; style-src 'unsafe-inline'" in read.values("content")


def test_ids_are_unique_and_every_reference_finds_one(any_report, outline):
    read = outline(as_html(any_report))
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert set(read.values("aria-labelledby")) <= set(ids)


def test_two_gates_of_one_name_are_two_rows(report, verdict, outline):
    read = outline(as_html(replace(report, verdicts=(verdict(), verdict()))))
    assert {"gate-1", "gate-2"} <= set(read.values("id"))


def test_every_drawing_has_a_title_or_is_hidden(any_report):
    html = as_html(any_report)
    for opening in re.findall(r'<svg role="img"[^>]*>(?!<title )', html):
        pytest.fail(f"no title in {opening}")
    unnamed = re.findall(r"<svg (?!role=\"img\"|aria-hidden|class=\"|x=|width=)[^>]*>", html)
    assert unnamed == []


def test_every_table_has_a_caption(any_report, outline):
    tags = outline(as_html(any_report)).tags
    assert tags.count("caption") == tags.count("table")


def test_headings_do_not_skip_a_level(any_report, outline):
    levels = [int(tag[1]) for tag in outline(as_html(any_report)).tags if re.match(r"h\d$", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(
    ("changes", "banner"),
    [
        ({}, "GO"),
        ({"worse_by": 0.5, "low": 0.4, "high": 0.6}, "NO-GO"),
        ({"high": 0.6}, "INCONCLUSIVE"),
    ],
)
def test_the_banner_says_the_outcome(report, verdict, outline, changes, banner):
    html = as_html(replace(report, verdicts=(verdict(**changes),), required=()))
    assert f"</svg>{banner}</p>" in html
    assert outline(html).text.startswith(f"{banner}: tiny-llama → cpu/stable")


def test_numbers_stand_beside_the_drawing(report, outline):
    text = outline(as_html(report)).text
    assert "+0.300 % [+0.100, +0.500] 1 % 280 passed" in text
    assert "share of answers" in text
    assert "baseline ppl 12.31" in text
    assert "4.20 MB −50 % from 8.40 MB" in text


def test_all_given_facts_are_shown(report, outline):
    text = outline(as_html(report)).text
    wanted = [
        *sum(report.facts, ()),
        *sum(report.versions, ()),
        *report.notes,
        "quantize",
        "31.4 s",
    ]
    assert [item for item in wanted if item not in text] == []


def test_not_measured_is_said_and_not_drawn(report, verdict, outline):
    html = as_html(replace(report, verdicts=extreme(verdict)))
    assert "nan" not in re.sub(r"<style>.*</style>", "", html, flags=re.DOTALL).lower()
    assert outline(html).text.count("not measured: worse by not measured") == 1


def test_no_verdicts_say_that_nothing_is_known(report, outline):
    text = outline(as_html(replace(report, verdicts=(), required=("accuracy",)))).text
    assert "No gate was measured." in text
    assert "Required by the policy and not measured: accuracy." in text


def test_hostile_text_stays_text(report, hostile, outline):
    html = as_html(infested(report, hostile))
    read = outline(html)
    assert {"script", "img"}.isdisjoint(read.tags)
    assert not any(name.startswith("on") for _, name, _ in read.attributes)
    assert hostile in read.text
    assert read.values("title") == [hostile]


def infested(report, text):
    odd = Verdict(
        gate=text, worse_by=0.1, low=0.0, high=0.2, margin=0.1, units=1, unit=text, detail=text,
        numbers=((text, 1.0),),
    )  # fmt: skip
    return replace(
        report, title=text, channel=text, policy=text, verdicts=(odd,), required=(text, text + "!"),
        facts=((text, text),), versions=((text, text),), notes=(text,),
        stages=(Stage(name=text, key=text, cached=False, seconds=1.0),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["مودل عربي", "模型🚀", "👩\u200d🚀", "{{ 7*7 }}{% x %}", "a" * 5000]
)
def test_any_script_reaches_the_page_isolated(report, text, outline):
    html = as_html(infested(report, text))
    assert f"<h1><bdi>{text}</bdi></h1>" in html
    assert text in outline(html).text


@pytest.mark.parametrize("text", ["\x00\x1b[2J", "\u202edesrever", "\ud83d"])
def test_characters_that_steer_or_cannot_be_written_are_replaced(report, text):
    html = as_html(infested(report, text))
    assert text[0] not in html
    html.encode("utf-8")


def test_equal_reports_give_equal_bytes(report):
    assert as_html(report) == as_html(replace(report, title=report.title))


def test_the_order_of_samples_does_not_matter(report):
    side = report.latency.baseline
    turned = replace(side, ttft_ms=tuple(reversed(side.ttft_ms)))
    swapped = replace(report, latency=replace(report.latency, baseline=turned))
    assert as_html(swapped) == as_html(report)


def test_a_hundred_thousand_samples_make_a_small_page(report):
    many = Samples(ttft_ms=tuple((n * 7919 % 100_003) / 1000 for n in range(100_000)))
    html = as_html(replace(report, latency=Latency(baseline=many, candidate=many)))
    assert len(html) < 80_000


def test_sizes_of_nothing_and_growth_are_shown(report, outline):
    grown = replace(report, sizes=Sizes(baseline_bytes=0, candidate_bytes=5))
    assert "5 bytes" in outline(as_html(grown)).text


def test_colours_are_readable_on_their_grounds():
    style, _, _ = page.ENVIRONMENT.loader.get_source(page.ENVIRONMENT, "style.css.j2")
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))
        pairs = [("ink", "paper"), ("soft", "paper"), ("soft", "card"), ("accent", "paper")]
        pairs += [(name, f"{name}-tint") for name in ("passed", "failed", "inconclusive")]
        pairs += [(name, "paper") for name in ("passed", "failed", "inconclusive")]
        pairs += [("ink", f"{name}-tint") for name in ("passed", "failed", "inconclusive")]
        poor = [pair for pair in pairs if contrast(*(colours[name] for name in pair)) < 4.5]
        assert poor == []


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_name_that_a_template_mistypes_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        page.ENVIRONMENT.from_string("{{ nothing }}").render()
