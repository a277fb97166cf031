"""What a checkpoint declares of its quantization, whoever made it, held against its headers.

Other tools than ModelOpt name no layer, so there a layer is quantized where its codes are. What it
must look like is told by `builders.autopsy`. Knows no torch.
"""

from builders import autopsy
from builders.autopsy.layers import Layer, layers
from builders.autopsy.storage import Storage
from builders.autopsy.stored import examine, is_narrow
from builders.checkpoint import Checkpoint
from builders.engine.embedded import layout
from builders.engine.embedded.layout import FOREIGN, Declaration, Scheme
from builders.errors import ToolError


def declared(checkpoint: Checkpoint) -> Declaration:
    """Read a declaration and check every quantized layer; a defect is a `ToolError`."""
    known = autopsy.recognize(checkpoint)
    if known.method in {"modelopt", "unquantized"}:
        ours = Declaration.read(checkpoint)
        layout.check(checkpoint, ours)
        return ours
    if known.kv_cache.quantized:
        raise ToolError(
            f"{checkpoint.path}: the embedded runtime does not read the KV cache of {known.method}",
            hint="serve it with vllm, or quantize the original with a ModelOpt recipe",
        )
    found = layers(checkpoint.tensors).values()
    schemes = {
        layer.module: _scheme(checkpoint, layer, known) for layer in found if is_narrow(layer)
    }
    return Declaration(algorithm=known.algorithm, group=known.group, layers=schemes)


def _scheme(checkpoint: Checkpoint, layer: Layer, known: autopsy.Recognized) -> Scheme:
    wrong = next((one for one in examine(layer, known).findings if one.stops), None)
    if wrong:
        raise ToolError(f"{checkpoint.path}: {wrong.where} {wrong.what}", hint=wrong.hint)
    stored = known.storage(layer.module)
    name = _name(checkpoint, stored, known) if stored else known.algorithm
    if stored is None or name not in FOREIGN or stored.codes not in FOREIGN[name].required:
        raise ToolError(
            f"{checkpoint.path}: {layer.module}: the embedded runtime cannot read {name} of "
            f"{known.method}",
            hint="serve it with vllm, or quantize the original with a recipe of this package",
        )
    return Scheme(algorithm=name, group=stored.group, foreign=True)


def _name(checkpoint: Checkpoint, stored: Storage, known: autopsy.Recognized) -> str:
    """GPTQ's second format differs from the first in its zero points only."""
    said = checkpoint.quantization or {}
    second = known.method == "gptq" and said.get("checkpoint_format") == "gptq_v2"
    return f"{stored.name}_V2" if second else stored.name
