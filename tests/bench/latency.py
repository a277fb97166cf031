"""How good the latency gate and its client are: does the interval hold, is the client exact?

``coverage`` simulates pairs of runs on a queue and counts how often the interval holds the truth;
``controls`` how often the gate's controls void a sound run. ``client`` measures servers whose
schedules are known to the microsecond, through our clients and, if it is installed, through AIPerf,
in turns. ``python tests/bench/gates.py coverage controls client`` makes the tables.
"""

import asyncio
import heapq
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builders.errors import EvidenceError
from builders.gate.speed import slowdown, slowed
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, Timing, quantile
from builders.gate.speed.calibration import HTTP, Rehearsal, metronome
from builders.gate.wire import client
from builders.serve.grpc import TritonEndpoint

ROOT = Path(__file__).parents[2]
GRPC = Rehearsal.of(TritonEndpoint("", ""))
CLIENTS = {"enginesmith": HTTP, "enginesmith, gRPC": GRPC}
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


def pair(
    dice: random.Random, number: int, load: float, *, count: int = REQUESTS, slower: float = 1.0
) -> list[Block]:
    """Simulate one pair on equal servers: one trace, and each run's own speed and luck.

    All that the candidate says comes ``slower`` times as late.
    """
    arrivals, now, work = [], 0.0, []
    for _ in range(count):
        now += dice.expovariate(SLOTS * load)
        arrivals.append(now)
        work.append(dice.lognormvariate(-0.125, 0.5))
    blocks = []
    for side in (BASELINE, CANDIDATE):
        speed = dice.lognormvariate(0, 0.01)
        stretch = slower if side == CANDIDATE else 1.0
        own = [seconds * speed * dice.lognormvariate(-0.02, 0.2) for seconds in work]
        requests = tuple(
            Timing(intended=0.0, sent=0.0, arrivals=((taken * stretch, 1),))
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


FEW = 32  # requests of a control's block, where 16 are in flight


def judged(dice: random.Random, load: float, margin: float, pairs: int, **how):
    """Judge simulated pairs of equal servers, or of one and itself ``slower``."""
    kept = {name: how.pop(name) for name in ("more", "confidence") if name in how}
    blocks = [block for number in range(pairs) for block in pair(dice, number, load, **how)]
    return slowdown.verdict(blocks, "ttft", margin=margin, **{"confidence": CONFIDENCE} | kept)


def controls(trials: int) -> str:
    """Count how often sound controls void a run, and how often its own verdict would pass."""
    head = ("load", "margin", "void: differs", "void: scatters", "void: slowed, not seen",
            "a harmless candidate passes")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| ---: | ---: | ---: | ---: | ---: | ---: |"]
    more = PAIRS * REQUESTS / (4 * FEW)
    for load in (0.5, 0.7, 0.85):
        for margin in (0.05, 0.1, 0.2):
            slower = 1 + max(slowed.BEYOND * margin, slowed.LEAST)
            counts = [0, 0, 0, 0]
            for trial in range(trials):
                seed, case = f"controls {load} {trial}", (load, margin)
                own = judged(random.Random(seed), *case, 4, count=FEW, confidence=slowed.SURE)
                wide = judged(random.Random(seed), *case, 4, count=FEW, more=more)
                slow = judged(random.Random(seed), *case, 4, count=FEW, slower=slower)
                counts[0] += void(slowed.refuse_moody, own)
                counts[1] += void(slowed.refuse_coarse, wide)
                counts[2] += void(slowed.refuse_blind, slow, slower)
                counts[3] += judged(random.Random(f"{seed} whole"), *case, PAIRS).high < margin
            shares = " | ".join(f"{count / trials:.1%}" for count in counts)
            lines.append(f"| {load:.0%} | {margin:.0%} | {shares} |")
            print(lines[-1], file=sys.stderr, flush=True)
    trailer = (
        f"{trials:,} trials each, TTFT p50 on the same queue: {PAIRS} pairs of {REQUESTS} requests,"
        f" controls of 4 pairs of {FEW}."
    )
    return "\n".join([*lines, "", trailer])


def void(refuse, *found) -> bool:
    """Whether a control refuses what it found."""
    try:
        refuse(*found)
    except EvidenceError:
        return True
    return False


async def ours(rehearsal: Rehearsal, concurrency: int, waves: int) -> dict[str, float]:
    """Measure a metronome with our client of it, ``concurrency`` requests in flight."""
    answers: list[client.Answer] = []
    async with metronome(TTFT, ITL, program=rehearsal.metronome) as (port, late):
        async with rehearsal.endpoint.like(port) as endpoint:

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
    used = _processor()
    with tempfile.TemporaryDirectory() as folder:
        async with metronome(TTFT, ITL) as (port, late):
            argv = [
                *(program, "profile", "-m", "metronome", "--endpoint-type", "chat", "--streaming"),
                *("-u", f"http://127.0.0.1:{port}", "--concurrency", str(concurrency)),
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
        "processor": _processor() - used,
    }


def command(rehearsal: Rehearsal, concurrency: int) -> dict[str, float]:
    """Return how long ``enginesmith latency`` takes beyond the traffic, by the server's schedule.

    The traffic is what it times, and the coherence check of each side: one whole answer, and over
    HTTP, which tells of prompts' lengths, four first tokens. ``processor`` is what the command and
    all servers used, traffic included: other work on the machine does not show in it.
    """
    used = _processor()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")

        async def run() -> float:
            async with metronome(TTFT, ITL, program=rehearsal.metronome) as (port, _):
                url = f"{'grpc' if rehearsal is GRPC else 'http'}://127.0.0.1:{port}"
                url += "" if rehearsal is GRPC else "/v1"
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
    first = TTFT if rehearsal is GRPC else 5 * TTFT
    beyond = seconds - timed - 2 * (first + (TOKENS - 1) * ITL)
    return {"beyond": beyond, "processor": _processor() - used}


def _processor() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def exactness(program: str | None) -> str:
    """Measure client after client on the same schedule, and say how loaded the machine is."""
    head = ("client", "in flight", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99",
            "server late, p99", "beyond the traffic", "processor")  # fmt: skip
    ttft, itl = f"{1000 * TTFT:.1f}", f"{1000 * ITL:.2f}"
    lines = [
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
        f"| *the schedule* | | {ttft} | {ttft} | {itl} | {itl} | | | |",
    ]
    before = os.getloadavg()[0]
    for concurrency in (1, 16, 64):
        runs = [
            (
                name,
                lambda c, r=rehearsal: asyncio.run(ours(r, c, WAVES)) | command(r, c),
            )
            for name, rehearsal in CLIENTS.items()
        ]
        if program:
            runs.append(("AIPerf", lambda c: asyncio.run(aiperf(program, c, WAVES))))
        for name, run in runs:
            found = run(concurrency)
            lines.append(
                f"| {name} | {concurrency} | {found['ttft_p50']:.1f} | {found['ttft_p99']:.1f} "
                f"| {found['itl_p50']:.2f} | {found['itl_p99']:.2f} | {found['server_p99']:.1f} "
                f"| {found['beyond']:.1f} s | {found['processor']:.1f} s |"
            )
    cores = len(os.sched_getaffinity(0))
    trailer = (
        f"Milliseconds. {WAVES} requests for each one in flight, {TOKENS} tokens each, after a "
        f"warm-up that is not counted; server and client on the same {cores} cores; load average "
        f"{before:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after. What the server itself was late is not taken off. "
        "Beyond the traffic: of the whole command, from its start to its end, for enginesmith with "
        "calibration and judging. Processor: what that command and its servers used in all."
    )
    return "\n".join([*lines, "", trailer])
