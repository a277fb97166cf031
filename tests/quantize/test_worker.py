"""A quantizer in another environment is driven by lines, and every way it can end is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.errors import ToolError, UsageError
from builders.progress import silent
from builders.quantize import worker
from fakes.environments import ready

WORKER = Path(__file__).parents[1] / "fakes" / "worker.py"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home in which the environment gptq is ready, and runs the Python of the tests."""
    return ready(tmp_path, monkeypatch)


def run(**job):
    return worker.run("gptq", WORKER, job, silent)


def test_progress_is_passed_on_and_the_result_returned():
    heard = []
    result = worker.run(
        "gptq", WORKER, {"act": "good", "text": "täg"}, lambda *a, unit: heard.append((*a, unit))
    )
    assert heard == [("work", 0, 2, "layers"), ("work", 2, 2, "layers")]
    assert result["echo"] == "täg"


def test_the_worker_sees_no_other_python_no_token_and_no_hub(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = run(act="good", text="")
    assert result["isolated"] == 1
    assert not {"PYTHONPATH", "HF_TOKEN"} & result["env"].keys()
    assert result["env"]["HF_HUB_OFFLINE"] == "1"
    assert result["env"]["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_a_quantizer_leaves_where_it_runs_is_not_left_beside_the_user(home):
    assert run(act="good", text="")["folder"] == str(home / "runs")


def test_what_the_user_must_mend_is_a_usage_error_with_the_worker_s_own_hint():
    with pytest.raises(UsageError, match=r"texts\.jsonl:3: no") as caught:
        run(act="refuse")
    assert caught.value.hint == "mend it"


def test_a_failure_points_to_the_log_with_the_library_s_own_story(home):
    with pytest.raises(ToolError, match="it did not work") as caught:
        run(act="fail")
    log = home / "runs" / "quantize-gptq.log"
    assert str(log) in caught.value.hint
    assert "the library's own story" in log.read_text()


@pytest.mark.parametrize(
    ("act", "what"),
    [
        ("chatter", "broke the protocol"),
        ("silent", "ended without a result:\nnothing to say"),
        ("crash", "exited 3:\nTraceback: the reason"),
    ],
)
def test_a_worker_that_breaks_off_or_the_protocol_is_told_with_its_log(act, what):
    with pytest.raises(ToolError, match=what):
        run(act=act)


def test_an_environment_that_was_never_made_is_told_with_the_line_that_makes_it(home):
    (home / "envs" / "gptq" / ".enginesmith").unlink()
    with pytest.raises(ToolError, match="the environment gptq is unfinished") as caught:
        run(act="good", text="")
    assert caught.value.hint.startswith("enginesmith env create gptq")


def test_a_worker_dies_with_a_killed_parent(home):
    code = (
        "import sys; from pathlib import Path; from builders.quantize import worker\n"
        "def heard(what, *a, **k): print(what, flush=True)\n"
        f"worker.run('gptq', Path({str(WORKER)!r}), {{'act': 'sleep'}}, heard)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}/status").exists() and "Z (" not in status(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return "Z ("


def test_an_interrupt_ends_the_worker():
    class Stop(Exception):
        pass

    seen = []

    def stop(what, *_, **__):
        seen.append(int(what))
        raise Stop

    with pytest.raises(Stop):
        worker.run("gptq", WORKER, {"act": "sleep"}, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], signal.SIGCONT)
