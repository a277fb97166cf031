"""How much processor time the import of ModelOpt takes, and what each way to shorten it saves.

    python tests/bench/imports.py [RUNS]

Each run is a process of its own, in turns; prints the median of each way as a Markdown table.
"""

import subprocess
import sys
from statistics import median

# Plain; without what ModelOpt would only import because it is installed; and without looking for
# garbage meanwhile, which is how `builders.quantize.backends` imports.
WAYS = {
    "plain": "import builders.quantize.modelopt",
    "less": "from builders.quantize import backends\n"
    "backends._uncollected = contextlib.nullcontext\n"
    "backends.load('modelopt')",
    "less, no garbage looked for": "from builders.quantize import backends\n"
    "backends.load('modelopt')",
}
TIMED = """
import contextlib, time, warnings
warnings.simplefilter("ignore")
began = time.process_time()
{}
print(time.process_time() - began)
"""


def main(runs: int) -> None:
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, code in WAYS.items():
            command = [sys.executable, "-c", TIMED.format(code)]
            told = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(float(told.stdout.split()[-1]))
    plain = median(found["plain"])
    print("| import | seconds | of plain |\n| --- | ---: | ---: |")
    for way, seconds in found.items():
        print(f"| {way} | {median(seconds):.1f} | {median(seconds) / plain:.0%} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
