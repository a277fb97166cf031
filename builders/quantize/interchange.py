"""Make an export load wherever it will run: transformers 5 writes what older readers misread.

A checkpoint saved by transformers 5 keeps its rotary settings only under ``rope_parameters``, and a
4.57 reader silently falls back to a base of 10000 without scaling. Its tokenizer classes are
renamed too. So config.json starts from the source's own, says both forms, and every other file of
the source is copied byte for byte.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders import files
from builders.checkpoint import Checkpoint, read_header
from builders.quantize import further
from builders.quantize.declaration import BESIDE

# What a model directory holds beside weights and config.json that readers look for.
COPIED: Final = (
    "tokenizer*.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "*.tiktoken",
    "tekken.json",
    "spiece.model",
    "sentencepiece*.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "NOTICE*",
)
# Keys that lead elsewhere: a path on the machine that saved it, and code that we never run.
_DROPPED: Final = frozenset({"_name_or_path", "auto_map", "custom_pipelines"})


def finish(source: Checkpoint, out: Path) -> None:
    """Complete an export in place: what transformers drops, files of the source, both rotary forms.

    All of it is made readable for others.
    """
    further.keep(source, out)
    exported = _read(out / "config.json")
    config = settings(source.config, exported)
    config["quantization_config"] = exported["quantization_config"]
    files.write_atomic(out / "config.json", json.dumps(config, indent=2) + "\n")
    if (out / BESIDE).is_file():
        beside = _read(out / BESIDE)
        beside["quantization"] = _truthful(beside["quantization"], out)
        files.write_atomic(out / BESIDE, json.dumps(beside, indent=2) + "\n")
    _copy(source.path, out)
    for path in sorted(out.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def settings(source: Mapping[str, object], exported: Mapping[str, object]) -> dict[str, object]:
    """Return the source's config.json in a form that transformers 4.57 and 5 read alike.

    ``exported`` is the same configuration as transformers 5 wrote it, with every rotary default
    resolved.
    """
    config = {key: value for key, value in source.items() if key not in _DROPPED}
    config |= rope(exported)
    dtype = source.get("dtype") or source.get("torch_dtype") or exported.get("dtype")
    if dtype is not None:
        config |= {"dtype": dtype, "torch_dtype": dtype}
    text, resolved = source.get("text_config"), exported.get("text_config")
    if isinstance(text, Mapping) and isinstance(resolved, Mapping):
        config["text_config"] = settings(text, resolved)
    return dict(sorted(config.items()))


def rope(exported: Mapping[str, object]) -> dict[str, object]:
    """Return the rotary settings in both forms, from what transformers 5 wrote."""
    parameters = exported.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return {}
    if "full_attention" in parameters and "sliding_attention" in parameters:
        return _rope_by_layer_type(parameters)
    return {"rope_parameters": dict(parameters)} | _rope_flat(parameters)


def _rope_flat(parameters: Mapping[str, object]) -> dict[str, object]:
    """Say one set of rotary parameters the way transformers 4 says it."""
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    flat: dict[str, object] = {}
    if "rope_theta" in parameters:
        flat["rope_theta"] = parameters["rope_theta"]
    if "partial_rotary_factor" in scaling:
        flat["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    default = scaling.get("rope_type", "default") == "default"
    return flat | {"rope_scaling": None if default else scaling}


def _rope_by_layer_type(parameters: Mapping[str, object]) -> dict[str, object]:
    """Gemma 3 turns its local layers by a base of their own (``rope_local_base_freq`` before)."""
    whole, local = parameters["full_attention"], parameters["sliding_attention"]
    if not isinstance(whole, Mapping) or not isinstance(local, Mapping):
        return {"rope_parameters": dict(parameters)}
    flat = _rope_flat(whole) | {"rope_local_base_freq": local.get("rope_theta")}
    return {"rope_parameters": dict(parameters)} | flat


def _truthful(declared: object, out: Path) -> dict[str, object]:
    """Say ``pre_quant_scale`` only where such tensors are: INT4 without AWQ claims them too."""
    if not isinstance(declared, Mapping):
        return {}
    told = dict(declared)
    if "pre_quant_scale" in told:
        shards = sorted(out.glob("*.safetensors"))
        names = (name for shard in shards for name in read_header(shard))
        told["pre_quant_scale"] = any(name.endswith(".pre_quant_scale") for name in names)
    return told


def copy_texts(source: Path, out: Path) -> None:
    """Make a directory that a tokenizer loads from: its files, and config.json, which says what."""
    out.mkdir()
    _copy(source, out)
    shutil.copyfile(source / "config.json", out / "config.json")


def _copy(source: Path, out: Path) -> None:
    wanted = sorted({path for glob in COPIED for path in source.glob(glob) if path.is_file()})
    (out / "generation_config.json").unlink(missing_ok=True)
    for path in wanted:
        target = out / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def _read(path: Path) -> dict[str, object]:
    data = json.loads(path.read_text(encoding="utf-8"))
    return dict(data)
