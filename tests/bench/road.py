"""How long the road takes: each stage once, the second run, ``--help`` and ``plan``.

    python tests/bench/road.py [--runs N]

Runs the demo in a fresh home and prints a Markdown table of medians. Nothing here is a test: these
are seconds of the machine it runs on, and ratios between runs of one session.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "enginesmith")


def timed(home: Path, *arguments: str) -> tuple[float, str]:
    """Run one command and return its wall seconds and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"ENGINESMITH_HOME": str(home)},
    )  # fmt: skip
    return time.perf_counter() - began, done.stdout


def median(home: Path, runs: int, *arguments: str) -> float:
    """Return the median seconds of several runs after one that is not counted."""
    timed(home, *arguments)
    return statistics.median(timed(home, *arguments)[0] for _ in range(runs))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        whole, printed = timed(home, "release", "demo/release.toml", "--json")
        stages = [(stage["name"], stage["seconds"]) for stage in json.loads(printed)["stages"]]
        rows = [
            *stages,
            ("**release, first run**", whole),
            ("release, second run", median(home, runs, "release", "demo/release.toml", "--json")),
            ("plan", median(home, runs, "plan", "demo/release.toml", "--json")),
            ("--help", median(home, runs, "--help")),
            ("verify", median(home, runs, "verify", "cpu/stable")),
        ]
    print("| step | seconds |\n| --- | ---: |")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
