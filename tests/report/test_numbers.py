"""Numbers have three significant digits, a sign where they are differences, and a unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.report import numbers

INF, NAN = float("inf"), float("nan")


def plain(text):
    return text.replace(numbers.NBSP, " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.03125, "0.0312"),
        (12.5, "12.5"),
        (-12.5, "−12.5"),
        (999.6, "1,000"),
        (123456, "123,000"),
        (2.5e12, "2.50e12"),
        (2.5e-7, "2.50e−7"),
        (INF, "∞"),
        (-INF, "−∞"),
        (NAN, "not measured"),
    ],
)
def test_digits(value, text):
    assert numbers.digits(value) == text


@pytest.mark.parametrize(("value", "text"), [(68, "68.0"), (100, "100"), (7, "7.00"), (0, "0")])
def test_measured_numbers_show_all_their_digits(value, text):
    assert numbers.digits(value, keep_zeros=True) == text


@given(st.floats(min_value=1e-4, max_value=9e8))
def test_digits_stay_within_half_a_unit_of_the_third(value):
    shown = float(numbers.digits(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.01, "relative", "1 %"),
        (0.0125, "relative increase of perplexity", "1.25 %"),
        (0.03, "share of right answers", "3 pt"),
        (0.03, "drop in the share of right answers", "3 pt"),
        (0.03, "points", "3 pt"),
        (12.0, "ms", "12 ms"),
        (12.0, "", "12"),
        (INF, "relative", "∞ %"),
        (NAN, "relative", "not measured"),
    ],
)
def test_amount(value, unit, text):
    assert plain(numbers.amount(value, unit)) == text


@pytest.mark.parametrize(
    ("values", "unit", "estimate", "bounds"),
    [
        ((0.003, -0.0102, 0.0162), "relative", "+0.30 %", "[−1.02, +1.62]"),
        ((0.52, 0.49, 0.56), "relative", "+52.0 %", "[+49.0, +56.0]"),
        ((0.0, -0.03, 0.03), "points", "0.00 pt", "[−3.00, +3.00]"),
        ((12.4, 12.3, 1234.0), "", "+12", "[+12, +1,234]"),
        ((0.1, -INF, INF), "relative", "+10.0 %", "[−∞, +∞]"),
        ((NAN, NAN, NAN), "relative", "not measured", "not measured"),
        ((0.1, NAN, 0.2), "relative", "+10.0 %", "[not measured, +20.0]"),
        ((NAN, -INF, INF), "relative", "not measured", "[−∞, +∞]"),
        ((0.0, 0.0, 0.0), "relative", "0 %", "[0, 0]"),
        ((1e-7, -1e-7, 2e-7), "", "+1.00e−7", "[−1.00e−7, +2.00e−7]"),
    ],
)
def test_interval(values, unit, estimate, bounds):
    worse_by, between = numbers.interval(*values, unit)
    assert (plain(worse_by), plain(between)) == (estimate, bounds)


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert plain(numbers.interval(-0.00001, -0.5, 0.5, "relative")[0]) == "0.0 %"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (8_412_000, "8.41 MB"),
        (15.2e9, "15.2 GB"),
        (2.5e12, "2.50 TB"),
        (999_999, "1,000 kB"),
    ],
)
def test_size(count, text):
    assert plain(numbers.size(count)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 ms"),
        (0.085, "85 ms"),
        (0.9999, "1.0 s"),
        (3.21, "3.2 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (4321, "1 h 12 min"),
        (NAN, "not measured"),
        (INF, "not measured"),
    ],
)
def test_duration(seconds, text):
    assert plain(numbers.duration(seconds)) == text


@pytest.mark.parametrize(
    ("baseline", "candidate", "text"),
    [
        (100, 46, "−54 %"),
        (100, 113.14, "+13.1 %"),
        (100, 100, "0 %"),
        (100, 100.01, "0 %"),
        (0, 5, ""),
        (NAN, 5, ""),
    ],
)
def test_relative(baseline, candidate, text):
    assert plain(numbers.relative(baseline, candidate)) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("", ""),
        ("a", "a"),
        ("ab", "a and b"),
        ("abc", "a, b and c"),
        ("abcde", "a, b, c and 2 more"),
    ],
)
def test_listed(names, text):
    assert numbers.listed(names) == text


def test_only_a_described_unit_says_what_is_counted():
    assert numbers.counted("share of right answers") == "share of right answers"
    assert numbers.counted("relative") == ""
    assert numbers.counted("nats per token") == ""
