"""Programs that we start fail loudly, and end when we end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders import process
from builders.errors import ToolError


def test_a_failure_carries_the_last_lines_of_its_log(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ToolError, match=r"exited 3:\n.*the reason") as caught:
        process.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], log=log)
    assert str(log) in caught.value.hint


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ToolError, match="no-such-program"):
        process.run(["no-such-program"], log=tmp_path / "log")


def test_stop_ends_a_child_that_ignores_sigterm(tmp_path):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print('up', flush=True); time.sleep(60)"
    child = process.start([sys.executable, "-c", code], log=tmp_path / "log")
    wait_for(lambda: "up" in (tmp_path / "log").read_text())
    process.stop(child, grace=0.1)
    assert child.returncode == -signal.SIGKILL


def test_a_child_dies_with_a_killed_parent(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from builders import process\n"
        f"child = process.start(['sleep', '60'], log=Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not alive(child))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_environment_of_a_child_is_what_was_asked(tmp_path):
    log = tmp_path / "log"
    process.run(["/usr/bin/env"], log=log, env={"ONLY": "this"})
    assert log.read_text() == "ONLY=this\n"
    assert os.environ.get("ONLY") is None


def test_a_short_program_s_output_is_returned_and_its_failure_named():
    assert process.output([sys.executable, "-c", "print(1)"]) == "1\n"
    with pytest.raises(ToolError, match="no-such-program"):
        process.output(["no-such-program"])
    with pytest.raises(ToolError, match="timed out"):
        process.output(["sleep", "9"], seconds=0.05)


def test_the_tail_of_a_log_keeps_its_lines_short(tmp_path):
    (tmp_path / "log").write_text("first\n" + "x" * 5000 + "\n")
    assert process.tail(tmp_path / "log", lines=1) == "x" * 300 + "…"
    assert process.tail(tmp_path / "absent") == "(no log)"


ECHO = "import sys; sys.stderr.write('heard\\n'); print(sys.stdin.read().upper()); print('done')"


def test_a_conversation_says_one_thing_and_hears_line_by_line(tmp_path):
    log = tmp_path / "deep" / "log"
    heard = process.converse([sys.executable, "-c", ECHO], say="täg", log=log)
    assert list(heard) == ["TÄG", "done"]
    assert log.read_text() == "heard\n"


def test_a_conversation_that_ends_badly_carries_the_log(tmp_path):
    code = "import sys; print('first'); sys.exit('the reason')"
    heard = process.converse([sys.executable, "-c", code], log=tmp_path / "log")
    assert next(heard) == "first"
    with pytest.raises(ToolError, match=r"exited 1:\n.*the reason"):
        next(heard)


def test_a_program_that_never_listens_is_no_broken_pipe(tmp_path):
    heard = process.converse([sys.executable, "-c", ""], say="x" * 1_000_000, log=tmp_path / "log")
    assert list(heard) == []
    with pytest.raises(ToolError, match="no-such-program"):
        next(process.converse(["no-such-program"], log=tmp_path / "log"))


def test_who_stops_listening_ends_the_program(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    heard = process.converse([sys.executable, "-c", code], log=tmp_path / "log")
    child = int(next(heard))
    heard.close()
    wait_for(lambda: not alive(child))


BACKWARDS = """import sys
for line in sys.stdin: print(line.strip()[::-1], flush=True)
print('over', file=sys.stderr)
"""


def test_a_dialogue_goes_to_and_fro_and_ends_the_program(tmp_path):
    log = tmp_path / "log"
    with process.dialogue([sys.executable, "-c", BACKWARDS], log=log) as spoken:
        for word in ("abc", "täg"):
            spoken.say(word)
            assert spoken.hear() == word[::-1]
    assert log.read_text() == "over\n"  # it was left to end by itself


def test_a_program_that_ends_within_a_dialogue_has_its_last_words_told(tmp_path):
    program = "import sys\nsys.stdin.readline()\nsys.exit('enough')"
    with process.dialogue([sys.executable, "-c", program], log=tmp_path / "log") as spoken:
        spoken.say("one")
        with pytest.raises(ToolError, match="exited 1:\nenough"):
            spoken.hear()
        spoken.say("two")  # is heard by nobody, and breaks nothing


def test_a_program_that_does_not_listen_is_ended_after_the_grace(tmp_path):
    program = "import time\nprint('up', flush=True)\ntime.sleep(60)"
    begun = time.monotonic()
    with process.dialogue(
        [sys.executable, "-c", program], log=tmp_path / "log", grace=0.2
    ) as spoken:
        assert spoken.hear() == "up"
    assert time.monotonic() - begun < 20
