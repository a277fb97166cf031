"""A worker that needs no library: it keeps or breaks the protocol as the job's ``act`` says."""

import json
import os
import sys
import time
from pathlib import Path

job = json.load(sys.stdin)


def say(**spoken):
    sys.stdout.write(json.dumps(spoken) + "\n")
    sys.stdout.flush()


def good():
    say(progress={"what": "work", "done": 0, "total": 2, "unit": "layers"})
    sys.stderr.write("a word for the log")
    say(progress={"what": "work", "done": 2, "total": 2, "unit": "layers"})
    say(
        result={
            "echo": job["text"],
            "folder": str(Path.cwd()),
            "isolated": sys.flags.isolated,
            "env": dict(os.environ),
        }
    )


def refuse():
    say(error={"what": "texts.jsonl:3: no", "hint": "mend it", "kind": "usage"})


def fail():
    sys.stderr.write("the library's own story")
    say(error={"what": "it did not work"})


def chatter():
    sys.stdout.write("Loading weights: 100%\n")
    sys.stdout.flush()
    time.sleep(60)


def silent():
    sys.stderr.write("nothing to say")


def crash():
    sys.stderr.write("Traceback: the reason")
    sys.exit(3)


def sleep():
    say(progress={"what": str(os.getpid()), "done": 0, "total": 1})
    time.sleep(60)


{act.__name__: act for act in (good, refuse, fail, chatter, silent, crash, sleep)}[job["act"]]()
