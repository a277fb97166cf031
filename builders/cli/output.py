"""Results for people and for machines; everything that commands print on stdout passes here."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from builders import report
from builders.cli import options
from builders.cli.watch import terminal
from builders.errors import PlanError
from builders.gate.statistics.power import Suite
from builders.pipeline import Judged
from builders.pipeline.judging import Judgement
from builders.pipeline.request import Request
from builders.pipeline.stages import Watcher
from builders.plan import Plan
from builders.store import Stage
from builders.verdict import Outcome

EXIT: Final = {Outcome.PASSED: 0, Outcome.FAILED: 10, Outcome.INCONCLUSIVE: 11}
HISTORY: Final = ("seq", "at", "action", "digest", "by", "reason")
ATTEMPTS: Final = ("candidate", "recipe", "outcome", "at")
GATES: Final = ("gate", "outcome", "label", "worse_by", "low", "high", "margin", "units")
_TRITONCLIENT: Final = """\
python - <<'END'
import queue, numpy, tritonclient.grpc as triton
def tensor(name, kind, value):
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(value)
    return made
answers = queue.Queue()
client = triton.InferenceServerClient("{grpc_url}")
client.start_stream(lambda result, error: answers.put(error or result))
client.async_stream_infer("{model}", [
    tensor("text_input", "BYTES", numpy.array([b'Return the'], object)),
    tensor("max_tokens", "INT32", numpy.array([16], numpy.int32)),
    tensor("stream", "BOOL", numpy.array([True])),
], enable_empty_final_response=True)
final = False
while not final:
    answer = answers.get(timeout=60)
    final = answer.get_response().parameters["triton_final_response"].bool_param
    if answer.as_numpy("text_output") is not None:
        print(answer.as_numpy("text_output")[0].decode(), end="", flush=True)
client.stop_stream()
END"""


def as_json(value: object) -> str:
    """Return JSON for scripts; keys keep the order in which they were put."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Return rows as aligned plain columns with a head line."""
    cells = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
             for line in cells)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Mapping[str, object]) -> str:
    """Return label and value pairs as two aligned columns."""
    width = max(len(label) for label in pairs)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in pairs.items())


def size(count: int) -> str:
    """Return bytes as people read them, in powers of 1000."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def plan(resolved: Plan) -> str:
    """Describe a plan in a dozen lines."""
    model, recipe = resolved.checkpoint, resolved.recipe
    native = recipe.native_on(resolved.tier)
    gain = "native" if native else "memory-only" if resolved.tier.gpu else "emulated"
    runtime, capacity = resolved.runtime, resolved.capacity
    lane = f" ({runtime.lane} lane)" if runtime.lane not in {"", runtime.name} else ""
    return facts(
        {
            "checkpoint": f"{model.path.name}: {model.architecture}, "
            f"{model.parameters:,} parameters, {size(model.weight_bytes)}",
            "recipe": f"{recipe} on {resolved.tier.name}: {gain}",
            "left alone": ", ".join(recipe.keep),
            "calibration": f"{resolved.calibration.samples} × {resolved.calibration.length} tokens",
            "runtime": f"{runtime.name} {runtime.version}{lane}",
            "serve": f"{resolved.serve.name}: {resolved.serve.context} tokens of context, "
            f"{resolved.serve.concurrency} requests at once",
            "memory": f"{size(capacity.weight_bytes)} of weights, "
            f"{size(capacity.kv_bytes)} of KV cache ({capacity.kv_bytes_per_token:,} B a token)",
            "policy": resolved.policy.name,
            "channel": resolved.channel,
            "plan": f"sha256:{resolved.digest}",
        }
    )


def power(suite: Suite) -> str:
    """Describe what a policy can certify, a line a gate."""
    rows = [
        {
            "gate": gate.gate,
            "margin": f"{gate.margin:.3g}",
            "units": f"{gate.units:,} {gate.unit}" if gate.units is not None else "not known yet",
            "passes if harmless": "—" if gate.power is None else f"{gate.power:.1%}",
            "enough for 90%": "—" if gate.enough is None else f"{gate.enough:,}",
            "assumed": gate.assumed,
        }
        for gate in suite.gates
    ]
    together = "—" if suite.joint is None else f"{suite.joint:.1%}"
    return f"{table(rows, list(rows[0]))}\nall gates together, were they independent: {together}"


def refusals(error: PlanError) -> list[dict[str, str]]:
    """Return why a plan is impossible, for scripts."""
    return [{"reason": refusal.reason, "hint": refusal.hint} for refusal in error.refusals]


def judged(result: Judged) -> dict[str, object]:
    """Return verdicts and what became of the candidate, for scripts."""
    return report.as_json(result.report, result.landing)


def judged_text(result: Judged) -> str:
    """Return verdicts and what became of the candidate, in a few lines."""
    return f"{report.as_text(result.report, result.landing)}report {result.page}"


def judgement(found: Judgement) -> str:
    """Return what evidence says, in a few lines, and how it compares with what was recorded."""
    detail = [f"  {v.gate}: {v.detail}" for v in found.report.verdicts if v.detail]
    said = [f"recorded verdicts: {found.recorded}"] if found.recorded else []
    return "\n".join([report.as_text(found.report).rstrip(), *detail, *said])


def stage(run: Callable[[Request, Watcher, Path | None], Stage], **arguments: Any) -> None:  # noqa: ANN401 - what `options.stage` collects
    """Run one stage for a command and print where its result lies."""
    for_scripts, why, out = (arguments.pop(name) for name in ("as_json", "why", "out"))
    with terminal(why=why) as watcher:
        done = run(options.request(**arguments), watcher, out)
    facts = {
        "stage": done.name,
        "key": done.key,
        "cached": done.cached,
        "seconds": round(done.seconds, 3),
        "digest": f"sha256:{done.tree.digest}",
        "bytes": done.tree.size,
        "path": str(out or done.path),
    }
    emit(as_json(facts) if for_scripts else str(facts["path"]))


def emit(text: str) -> None:
    """Print a result on stdout."""
    click.echo(text)


def to_try(http_url: str, grpc_url: str, model: str) -> str:
    """Return what a reader can paste to talk to a served model: curl, and a gRPC stream."""
    body = json.dumps({"text_input": "Return the", "max_tokens": 16})
    curl = f"curl -s {http_url}/v2/models/{model}/generate -d '{body}'"
    return f"Try it:\n\n{curl}\n\n{_TRITONCLIENT.format(grpc_url=grpc_url, model=model)}"


def shown(release: Mapping[str, Any]) -> str:
    """Describe a release: what it is, what the gates said, where it lies."""
    head = {
        "release": release["release"],
        **release["about"],
        "outcome": release["outcome"],
        "size": f"{size(release['bytes'])} in {release['files']} files",
        "signed by": release["signed_by"],
        "path": release["path"],
        "report": release["report"],
    }
    rows = [{name: _short(gate[name]) for name in GATES} for gate in release["gates"]]
    tried = [{**attempt, "candidate": attempt["candidate"][:12]} for attempt in release["attempts"]]
    below = f"\n\n{table(tried, ATTEMPTS)}" if len(tried) > 1 else ""
    return f"{facts(head)}\n\n{table(rows, GATES)}{below}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
