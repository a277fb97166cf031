"""``enginesmith adopt``: an engine that somebody else compiled."""

from pathlib import Path

import click

from builders.cli import options, output
from builders.engine.trtllm.adopt import Adopted
from builders.errors import UsageError
from builders.pipeline import adoption
from builders.pipeline.adoption import Wanted


@click.command("adopt")
@click.argument("engine", type=click.Path(path_type=Path), metavar="ENGINE_DIR")
@click.option("--tier", default="", metavar="TIER", help="The GPU it was built on, as h100.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The original checkpoint, or its tokenizer and config.json.",
)
@click.option("--name", default="model", show_default=True, help="The model's name at Triton.")
@options.OUT
@options.JSON
def command(
    engine: Path, tier: str, tokenizer: Path | None, name: str, out: Path | None, as_json: bool
) -> None:
    """Read a TensorRT-LLM engine that others built, and lay out a repository that serves it.

    Without --out it says what the engine is and refuses one that is not whole. With --out it needs
    --tier and --tokenizer, which no engine tells, and leaves a Triton model repository with a
    record of the engine, ready for enginesmith lint, Triton and the gates.
    """
    if out is None:
        found = adoption.read(engine)
    elif not tier or tokenizer is None:
        raise UsageError("--out needs --tier and --tokenizer", hint="no engine says its GPU")
    else:
        found = adoption.take_in(engine, Wanted(tier=tier, tokenizer=tokenizer, name=name), out)
    said = _facts(engine, found) | ({"repository": str(out)} if out else {})
    output.emit(output.as_json(said) if as_json else output.facts(said))


def _facts(engine: Path, found: Adopted) -> dict[str, object]:
    formats = [fmt.value if fmt else "by layer" for fmt in (found.weights, found.activations)]
    return {
        "engine": str(engine),
        "kind": found.kind,
        "TensorRT-LLM": found.version or "not compiled yet",
        "architecture": found.architecture,
        "algorithm": found.quant_algo or "none",
        "weights": formats[0],
        "activations": formats[1],
        "KV cache": found.kv_cache.value if found.kv_cache.quantized else "none",
        "dtype": found.dtype.value,
        "ranks": f"{found.world} (tp {found.tp}, pp {found.pp})",
        "requests at once": found.max_batch_size,
        "context": found.max_seq_len,
        "tokens a step": found.max_num_tokens,
        "files": len(found.files),
        "configuration": f"sha256:{found.config_digest}",
    }
