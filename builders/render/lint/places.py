"""The files that a repository names: engines and tokenizers, and whether they fit it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from builders.errors import UsageError
from builders.ledger import lane
from builders.render.lint.finding import Finding, Severity
from builders.render.lint.nvidia import line_of, lists, part, yes
from builders.render.lint.repository import Model, Repository, number, read_json

_TOKENIZERS: Final = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "tokenizer_config.json",
)  # fmt: skip
_READ: Final = "a relative path begins in the repository, where enginesmith starts the server"


def tokenizer(repository: Repository, model: Model) -> Iterator[Finding]:
    """The tokenizer is where it is said to be."""
    said = model.parameter("tokenizer_dir")
    if not said or part(model) not in {"preprocessing", "postprocessing", "tensorrt_llm"}:
        return
    place = repository.path(said)
    what = "" if place.is_dir() else "does not exist"
    if place.is_dir() and not any((place / name).is_file() for name in _TOKENIZERS):
        what = "holds no tokenizer"
    if what:
        yield model.finding(
            "path",
            f"tokenizer_dir {said} {what}",
            f"name the directory of the checkpoint's tokenizer files; {_READ}",
            line=line_of(model.parameters, "tokenizer_dir"),
        )


def engines(repository: Repository, model: Model) -> Iterator[Finding]:
    """The engine is there, whole, of a version that compiles, and takes what Triton sends."""
    said = model.parameter("gpt_model_path")
    if not said or part(model) != "tensorrt_llm":
        return
    place, line = repository.path(said), line_of(model.parameters, "gpt_model_path")
    try:
        config = read_json(place / "config.json")
    except ValueError as error:
        what = "does not exist" if not place.is_dir() else f"has no sound config.json ({error})"
        yield model.finding("path", f"gpt_model_path {said} {what}", _READ, line=line)
        return
    yield from _ranks(model, place, config, line)
    yield from _version(model, config, line)
    yield from _limits(model, _table(config, "build_config"))


def _ranks(model: Model, place: Path, config: Mapping[str, Any], line: int) -> Iterator[Finding]:
    mapping = _table(_table(config, "pretrained_config"), "mapping")
    world = _whole(mapping, "world_size") or (
        (_whole(mapping, "tp_size") or 1) * (_whole(mapping, "pp_size") or 1)
    )
    found = sorted(path.name for path in place.glob("rank*.engine"))
    wanted = sorted(f"rank{rank}.engine" for rank in range(world))
    if found != wanted:
        yield model.finding(
            "world-size",
            f"the engine is for {world} ranks, and {len(found)} engines are there",
            "copy the whole engine",
            line=line,
        )
    for gpus in lists(model):
        if len(gpus) != world:
            yield model.finding(
                "world-size",
                f"gpu_device_ids gives an instance {len(gpus)} GPUs, the engine has {world} ranks",
                f"give each instance {world}",
                line=line_of(model.parameters, "gpu_device_ids"),
            )


def _version(model: Model, config: Mapping[str, Any], line: int) -> Iterator[Finding]:
    version = config.get("version")
    try:
        able = isinstance(version, str) and "tensorrt" in lane("trtllm", version)
    except UsageError:
        able = False
    if not able:
        yield model.finding(
            "version",
            f"the engine says that TensorRT-LLM {version} built it, which compiles none",
            "0.9.0 to 1.2.1 and the candidates to 1.3.0rc20 do: is config.json the engine's own?",
            line=line,
        )


def _limits(model: Model, build: Mapping[str, Any]) -> Iterator[Finding]:
    most = _whole(build, "max_batch_size")
    if most and model.max_batch_size > most:
        yield model.finding(
            "max-batch-size",
            f"max_batch_size {model.max_batch_size} is more than the engine's {most}",
            f"set it to {most} at most",
            line=model.line("max_batch_size"),
            severity=Severity.WARN,
        )
    plugins = _table(build, "plugin_config")
    for key in ("enable_kv_cache_reuse", "enable_chunked_context"):
        if yes(model.parameter(key)) and plugins.get("use_paged_context_fmha") is False:
            yield model.finding(
                "engine",
                f"{key} needs an engine with paged context attention, which this one has not",
                "build with use_paged_context_fmha, or turn it off here",
                line=line_of(model.parameters, key),
            )
    share = model.parameter("gpu_weights_percent")
    if share and share != "1.0" and build.get("weight_streaming") is False:
        yield model.finding(
            "engine",
            "gpu_weights_percent below 1.0 needs an engine with weight streaming",
            "build with weight_streaming, or leave it out",
            line=line_of(model.parameters, "gpu_weights_percent"),
        )
    beams = number(model.parameter("max_beam_width"))
    if beams > (_whole(build, "max_beam_width") or beams):
        yield model.finding(
            "engine",
            f"max_beam_width {beams} is more than the engine's {build['max_beam_width']}",
            f"set it to {build['max_beam_width']} at most",
            line=line_of(model.parameters, "max_beam_width"),
        )


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _whole(config: Mapping[str, Any], key: str) -> int:
    found = config.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0
