"""Progress reads well without a terminal: a line when it matters, and not a thousand."""

from builders.cli.progress import Live, Plain, display


def test_a_counted_step_says_how_far_it_is_and_ends(capsys):
    show = Plain()
    for done in range(101):
        show("score", done, 100, unit="rows")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  score: 0 of 100 rows", "  score: 100 of 100 rows"]


def test_a_step_that_cannot_be_counted_says_its_name_and_its_time(capsys):
    show = Plain()
    show("load", 0, 1)
    show("load", 1, 1)
    assert capsys.readouterr().err.splitlines() == ["  load …", "  load: 0.0 s"]


def test_a_slow_step_tells_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("builders.cli.progress.time.monotonic", lambda: next(clock))
    show = Plain()
    show("score", 0, 100, unit="rows")
    show("score", 20, 100, unit="rows")
    assert capsys.readouterr().err.splitlines()[1] == (
        "  score: 20 of 100 rows, 2 rows/s, 40 s left"
    )


def test_less_than_one_a_second_is_not_told_as_none(monkeypatch, capsys):
    clock = iter([0.0, 12.0])
    monkeypatch.setattr("builders.cli.progress.time.monotonic", lambda: next(clock))
    show = Plain()
    show("latency", 0, 16, unit="blocks")
    show("latency", 3, 16, unit="blocks")
    assert "3 of 16 blocks, 0.25 blocks/s, 52 s left" in capsys.readouterr().err


def test_the_same_step_may_come_again(capsys):
    show = Plain()
    for _ in range(2):
        show("x", 0, 2)
        show("x", 2, 2)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_without_a_terminal_lines_are_plain_and_on_stderr(capsys):
    with display() as shown:
        assert isinstance(shown, Plain)
        shown.say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_on_a_terminal_there_are_bars(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with display() as shown:
        assert isinstance(shown, Live)
        shown("score", 0, 10, unit="rows")
        shown("score", 10, 10, unit="rows")
        shown.say("done [not markup]")
