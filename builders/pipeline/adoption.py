"""Engines that others compiled, taken in: read, recorded, and laid out as a model repository."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from builders import files, ledger, render
from builders.bundle import Tree
from builders.engine import EngineSettings
from builders.engine.description import Description
from builders.engine.trtllm.adopt import Adopted, adopt
from builders.engine.trtllm.effective import Effective
from builders.engine.trtllm.machine import Gpu, Machine
from builders.engine.trtllm.sidecar import COMPILED, FILE, Sidecar, certify
from builders.errors import PlanError, Refusal, UsageError
from builders.quantize import interchange
from builders.render.context import Compiled
from builders.tiers import tier

VARIANT = "inflight_batcher_llm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What nobody can read from an engine: its GPU, its tokenizer, and how it shall be called."""

    tier: str
    tokenizer: Path
    name: str


def read(engine: Path) -> Adopted:
    """Read a foreign engine or TensorRT-LLM checkpoint; what is neither is a `UsageError`."""
    return adopt(engine)


def take_in(engine: Path, wanted: Wanted, out: Path) -> Adopted:
    """Fill the new folder ``out`` with a model repository that serves a foreign engine.

    The record beside it says what the engine itself does not: the tier, as told, and the versions
    that stand in the images of its TensorRT-LLM. Its files are copied, never linked.
    """
    files.refuse_occupied(out)
    found = adopt(engine)
    _refuse(found, wanted)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".adopt-") as scratch:
        made = Path(scratch, "engine")
        _copy(engine, found, made)
        interchange.copy_texts(wanted.tokenizer, made / "tokenizer")
        _record(found, wanted, made)
        paged = Effective.read(made).flag("use_paged_context_fmha") == "enable"
        context = render.Context(
            name=wanted.name,
            context=found.max_seq_len,
            concurrency=found.max_batch_size,
            gpu=True,
            engine_digest=Tree.of(made).digest,
            compiled=Compiled(batch=found.max_batch_size, paged_context=paged),
        )
        render.render(VARIANT, context, made, out)
        render.check(out, VARIANT, context)
    return found


def _refuse(found: Adopted, wanted: Wanted) -> None:
    if found.kind != "engine":
        raise UsageError(
            "a TensorRT-LLM checkpoint, not an engine: there is nothing to serve yet",
            hint="trtllm-build compiles it",
        )
    if not (wanted.tokenizer / "config.json").is_file():
        raise UsageError(
            f"{wanted.tokenizer}: no config.json beside the tokenizer",
            hint="name the directory of the original checkpoint",
        )
    where = tier(wanted.tier)
    if not where.gpu:
        raise PlanError((Refusal("engines are for GPUs", "--tier h100, or where it was built"),))


def _copy(engine: Path, found: Adopted, made: Path) -> None:
    made.mkdir()
    with files.disk_errors(f"adopting {engine}"):
        for name in found.files:
            files.place(engine / name, made / name, owned=False)


def _record(found: Adopted, wanted: Wanted, made: Path) -> None:
    settings = EngineSettings(
        context=found.max_seq_len,
        concurrency=found.max_batch_size,
        kv_cache=found.kv_cache,
        dtype=found.dtype,
    )
    Description(
        runtime=COMPILED, version=found.version, settings=settings, quantization=found.quant_algo
    ).write(made)
    known = ledger.release(found.version)
    there = Machine(
        gpus=(Gpu(name="", sm=tier(wanted.tier).sm, memory_bytes=0),),
        tensorrt_llm=found.version,
        tensorrt=known.tensorrt,
    )
    draft = Sidecar(
        lane=COMPILED,
        version=found.version,
        world=found.world,
        made_on=there,
        argv=(),
        tuning="",
        config_digest=found.config_digest,
        changes=(f"adopted: {FILE} was not written where the engine was built",),
        files=Tree(()),
    )
    certify(draft, made)
