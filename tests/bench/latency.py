"""How good the latency gate and its client are: does the interval hold, is the client exact?

    python tests/bench/latency.py [--trials N] [--aiperf PATH] [--docs] [coverage] [client]

``coverage`` simulates pairs of runs on a queue and counts how often the interval holds the truth.
``client`` measures a server whose schedule is known to the microsecond, through our client and, if
it is installed, through AIPerf, in turns. Prints Markdown tables; ``--docs`` writes them into
docs/gates-latency.md between its markers.
"""

import argparse
import asyncio
import heapq
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builders.gate.speed import slowdown
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing, quantile
from builders.gate.speed.calibration import metronome
from builders.gate.wire import client
from builders.gate.wire.openai import OpenAiEndpoint

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "gates-latency.md"
CONFIDENCE = 0.95  # on each side, so the interval between both bounds holds 90 %
SLOTS, PAIRS, REQUESTS = 4, 8, 200
TTFT, ITL, TOKENS, WAVES = 0.05, 0.01, 32, 10


def queued(arrivals: list[float], work: list[float]) -> list[float]:
    """Return how long each request waits and works, first come first served."""
    free, found = [0.0] * SLOTS, []
    for arrival, seconds in zip(arrivals, work, strict=True):
        end = max(arrival, heapq.heappop(free)) + seconds
        heapq.heappush(free, end)
        found.append(end - arrival)
    return found


def pair(dice: random.Random, number: int, load: float) -> list[Block]:
    """Simulate one pair on equal servers: one trace, and each run's own speed and luck."""
    arrivals, now, work = [], 0.0, []
    for _ in range(REQUESTS):
        now += dice.expovariate(SLOTS * load)
        arrivals.append(now)
        work.append(dice.lognormvariate(-0.125, 0.5))
    blocks = []
    for side in (BASELINE, CANDIDATE):
        speed = dice.lognormvariate(0, 0.01)
        own = [seconds * speed * dice.lognormvariate(-0.02, 0.2) for seconds in work]
        requests = tuple(
            Timing(intended=0.0, sent=0.0, arrivals=((taken, 1),))
            for taken in queued(arrivals, own)
        )
        blocks.append(Block(pair=number, side=side, requests=requests))
    return blocks


def coverage(trials: int) -> str:
    """Count how often each interval holds the truth, which is that both servers are equal."""
    head = ("load", "TTFT", "holds the truth (nominal 90 %)", "passes at the margin (nominal 5 %)",
            "half-width")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| ---: | --- | ---: | ---: | ---: |"]
    for load in (0.5, 0.7, 0.85):
        dice = random.Random(f"coverage {load}")
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(trials):
            blocks = [block for number in range(PAIRS) for block in pair(dice, number, load)]
            for name, what in (
                ("ttft", "p50"),
                ("ttft_p95", "p95"),
            ):
                bounds = slowdown.bounds(slowdown.log_ratios(blocks, name), confidence=CONFIDENCE)
                found.setdefault(what, []).append((bounds.low, bounds.high))
        for what, bounds in found.items():
            holds = sum(low <= 0 <= high for low, high in bounds) / trials
            passes = sum(high < 0 for _, high in bounds) / trials
            width = sum(high - low for low, high in bounds) / trials / 2
            lines.append(
                f"| {load:.0%} | {what} | {holds:.1%} | {passes:.1%} | {math.expm1(width):.1%} |"
            )
    trailer = (
        f"{trials:,} trials a load, {PAIRS} pairs of {REQUESTS} requests on {SLOTS} places, each "
        "run 1 % faster or slower by chance. At 2,000 trials a standard error is 0.5 to 0.7 points."
    )
    return "\n".join([*lines, "", trailer])


async def ours(concurrency: int, waves: int) -> dict[str, float]:
    """Measure the metronome with our client, ``concurrency`` requests in flight."""
    answers: list[client.Answer] = []
    async with metronome(TTFT, ITL) as (url, late):
        async with OpenAiEndpoint(url=url, model="metronome", chat=True) as endpoint:

            async def work(tokens: int) -> None:
                request = client.Request(prompt="tick " * 20, max_tokens=tokens, ignore_eos=True)
                answer = await client.ask(endpoint, request, who="bench", timeout=60.0)
                if tokens == TOKENS:
                    answers.append(answer)

            # As the gate does: a first wave, not counted, opens the connections.
            for count, tokens in ((concurrency, 1), (concurrency * waves, TOKENS)):
                await client.side_by_side([tokens] * count, work, workers=concurrency)
        await asyncio.sleep(0.1)
        lateness = late()[concurrency:]
    first = [answer.arrivals[0][0] - answer.sent for answer in answers]
    between = [
        (answer.arrivals[-1][0] - answer.arrivals[0][0]) / (answer.tokens - 1) for answer in answers
    ]
    return {
        "ttft_p50": 1000 * quantile(first, 0.5),
        "ttft_p99": 1000 * quantile(first, 0.99),
        "itl_p50": 1000 * quantile(between, 0.5),
        "itl_p99": 1000 * quantile(between, 0.99),
        "server_p99": 1000 * quantile(lateness, 0.99),
    }


async def aiperf(program: str, concurrency: int, waves: int) -> dict[str, float]:
    """Measure the same server with AIPerf, the same requests in flight."""
    with tempfile.TemporaryDirectory() as folder:
        async with metronome(TTFT, ITL) as (url, late):
            argv = [
                *(program, "profile", "-m", "metronome", "--endpoint-type", "chat", "--streaming"),
                *("-u", url.removesuffix("/v1"), "--concurrency", str(concurrency)),
                *("--request-count", str(concurrency * waves), "--use-server-token-count"),
                *("--synthetic-input-tokens-mean", "20", "--output-tokens-mean", str(TOKENS)),
                *("--tokenizer", str(ROOT / "demo" / "model"), "--artifact-dir", folder),
                *("--ui", "none", "--warmup-request-count", str(concurrency)),
            ]
            begun = time.perf_counter()
            child = await asyncio.create_subprocess_exec(
                *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output, _ = await child.communicate()
            seconds = time.perf_counter() - begun
            lateness = late()[concurrency:]
        if child.returncode:
            raise SystemExit(f"aiperf: {output.decode()[-2000:]}")
        found = json.loads(Path(folder, "profile_export_aiperf.json").read_text())
    ttft, itl = found["time_to_first_token"], found["inter_token_latency"]
    return {
        "ttft_p50": ttft["p50"],
        "ttft_p99": ttft["p99"],
        "itl_p50": itl["p50"],
        "itl_p99": itl["p99"],
        "server_p99": 1000 * quantile(lateness, 0.99),
        "beyond": seconds - (waves + 1) * (TTFT + (TOKENS - 1) * ITL),
    }


def command(concurrency: int) -> float:
    """Return how long ``enginesmith latency`` takes beyond the traffic, by the server's schedule.

    The traffic is what it times, and the coherence check of each side: one whole answer and four
    first tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")

        async def run() -> float:
            async with metronome(TTFT, ITL) as (url, _):
                load = (f"requests={max(concurrency, 2)}", f"concurrency={concurrency}")
                sets = (*load, "pairs=4", "warm_up=0", "client_share=1e6")
                argv = [
                    *(str(Path(sys.executable).parent / "enginesmith"), "latency", url),
                    *("--model", "metronome", "--out", str(out)),
                    *(part for one in sets for part in ("--set", one)),
                ]
                begun = time.perf_counter()
                child = await asyncio.create_subprocess_exec(
                    *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                await child.wait()
                return time.perf_counter() - begun

        seconds = asyncio.run(run())
        blocks = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    timed = sum(max(one["times"][-1] for one in block["requests"]) for block in blocks)
    return seconds - timed - 2 * (5 * TTFT + (TOKENS - 1) * ITL)


def exactness(program: str | None) -> str:
    """Measure client after client on the same schedule, and say how loaded the machine is."""
    head = ("client", "in flight", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99",
            "server late, p99", "beyond the traffic")  # fmt: skip
    ttft, itl = f"{1000 * TTFT:.1f}", f"{1000 * ITL:.2f}"
    lines = [
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
        f"| *the schedule* | | {ttft} | {ttft} | {itl} | {itl} | | |",
    ]
    before = os.getloadavg()[0]
    for concurrency in (1, 16, 64):
        runs = [("enginesmith", lambda c: asyncio.run(ours(c, WAVES)) | {"beyond": command(c)})]
        if program:
            runs.append(("AIPerf", lambda c: asyncio.run(aiperf(program, c, WAVES))))
        for name, run in runs:
            found = run(concurrency)
            lines.append(
                f"| {name} | {concurrency} | {found['ttft_p50']:.1f} | {found['ttft_p99']:.1f} "
                f"| {found['itl_p50']:.2f} | {found['itl_p99']:.2f} | {found['server_p99']:.1f} "
                f"| {found['beyond']:.1f} s |"
            )
    cores = len(os.sched_getaffinity(0))
    trailer = (
        f"Milliseconds. {WAVES} requests for each one in flight, {TOKENS} tokens each, after a "
        f"warm-up that is not counted; server and client on the same {cores} cores; load average "
        f"{before:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after. What the server itself was late is not taken off. "
        "Beyond the traffic: of the whole command, from its start to its end, for enginesmith with "
        "calibration and judging."
    )
    return "\n".join([*lines, "", trailer])


def document(name: str, text: str) -> None:
    """Put a table between its markers in the documentation."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- end:{name} -->"
    whole = DOCS.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(whole):
        raise SystemExit(f"{DOCS} has no markers for {name}")
    DOCS.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", whole), encoding="utf-8")


def main() -> None:
    """Print the tables that were asked for, both without a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=["coverage", "client", []], default=[])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--aiperf", default=shutil.which("aiperf"))
    parser.add_argument("--docs", action="store_true")
    asked = parser.parse_args()
    makers = {
        "coverage": lambda: coverage(asked.trials),
        "client": lambda: exactness(asked.aiperf),
    }
    for name in asked.tables or makers:
        text = makers[name]()
        print(f"{text}\n")
        if asked.docs:
            document(name, text)


if __name__ == "__main__":
    main()
