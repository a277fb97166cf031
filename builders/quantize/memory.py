"""Where a checkpoint is quantized when it is larger than memory: decided before the work.

Recipes that look at the weights alone are streamed, tensor by tensor: no model is made, and memory
holds a few tensors whatever the model's size. Recipes that read texts need the model; one that does
not fit is calibrated layer by layer, with the others on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.quantize.shapes import quantized
from builders.recipe import Memory, Recipe
from builders.weights import Weights

# Measured on ModelOpt 0.47 with a model of 396M parameters: what imports take, and what is taken
# beside the weights before and after.
_LIBRARIES: Final = 582 << 20
_BESIDE: Final = 65 << 20
# Activations of a calibration batch, and the largest tensors that are rounded at once: an estimate.
_WORKING: Final = 512 << 20
# What is stored in a format that the recipe looks at the weights alone for.
STREAMED: Final = frozenset({
    "FP8_PER_CHANNEL_PER_TOKEN_CFG", "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "MXFP8_DEFAULT_CFG",
    "MXFP4_DEFAULT_CFG", "W4A16_NVFP4_CFG", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
})  # fmt: skip
# NVFP4 has one scale for all layers that read the same tensor. In these architectures the names
# tell which do: queries, keys and values one, gates and ups another.
SEQUENTIAL: Final = frozenset({
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "GemmaForCausalLM",
    "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM", "Olmo2ForCausalLM",
})  # fmt: skip
_STORED: Final[Mapping[str, str]] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """How a model may be held, and where unfinished work is kept for the next try (None: nowhere).

    Whoever gives ``scratch`` gives equal inputs equal ones, and no other inputs.
    """

    memory: Memory = Memory.AUTO
    scratch: Path | None = None


class Way(Enum):
    """How a model is held: whole, not at all, or one layer at a time."""

    WHOLE = "whole"
    TENSORS = "tensor by tensor"
    LAYERS = "layer by layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a checkpoint needs to be held whole while it is quantized, and what is there."""

    needed: int
    free: int

    @property
    def enough(self) -> bool:
        """Whether the whole model fits."""
        return self.needed <= self.free

    def __str__(self) -> str:
        return f"{self.needed / 1e9:.1f} GB of memory where {self.free / 1e9:.1f} GB are free"


def room(checkpoint: Checkpoint, recipe: Recipe) -> Room:
    """Say what holding everything takes: libraries, weights before and after, activations."""
    weights = checkpoint.weight_bytes + Weights(checkpoint, recipe).exported_bytes
    return Room(needed=_LIBRARIES + weights + _BESIDE + _WORKING, free=free())


def free() -> int:
    """Return the bytes of memory that can be taken, by the kernel and by the container's limit.

    Files that the kernel keeps in memory as long as nobody needs the room count as free, in a
    container too (cgroup v2's ``inactive_file``, v1's ``total_inactive_file``).
    """
    found = {
        key: int(value.split()[0]) << 10
        for key, _, value in (line.partition(":") for line in _lines("/proc/meminfo"))
        if value.endswith("kB")
    }
    limits = [found.get("MemAvailable", 1 << 62)]
    limits += [left for group in CGROUPS if (left := group.left()) is not None]
    return min(limits)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Where a version of control groups says what a container may take and has taken."""

    most: str
    used: str
    stat: str
    idle: str

    def left(self) -> int | None:
        """Return the bytes that may still be taken; None where no limit is set."""
        most, used = _number(self.most), _number(self.used)
        if most is None or used is None:
            return None
        facts = dict(line.split() for line in _lines(self.stat) if len(line.split()) == 2)
        return max(0, most - used + int(facts.get(self.idle, 0)))


CGROUPS: Final = (
    Cgroup(
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory.stat",
        "inactive_file",
    ),
    Cgroup(
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def unstreamed(checkpoint: Checkpoint, recipe: Recipe) -> str:
    """Say why a recipe cannot be streamed, or ""."""
    if recipe.needs_texts:
        return f"{recipe.name} is calibrated on texts, which needs the model"
    if recipe.backend != "modelopt" or recipe.preset not in STREAMED:
        return f"{recipe.name} is made by {recipe.backend} from the whole model"
    if recipe.weights.block == 16 and checkpoint.architecture not in SEQUENTIAL:
        return (
            f"in {checkpoint.architecture} it is not known which layers share a scale of "
            f"{recipe.name}"
        )
    own = _STORED.get(str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")))
    stored = {checkpoint.tensors[f"{n}.weight"].dtype for n in quantized(checkpoint, recipe)}
    if stored != {own}:
        kinds = ", ".join(sorted(stored))
        return f"what {recipe.name} rounds is stored in {kinds}, not in the format of config.json"
    return ""


def refusals(checkpoint: Checkpoint, recipe: Recipe, asked: Memory) -> tuple[Refusal, ...]:
    """Return why the memory that was asked for, or is there, will not do."""
    if recipe.backend != "modelopt" or choose(checkpoint, recipe, asked) is Way.TENSORS:
        return ()
    why = unlayered(recipe) if recipe.needs_texts else unstreamed(checkpoint, recipe)
    if asked is Memory.STREAMED and why:
        return (Refusal(f"quantize.memory = streamed: {why}", 'quantize.memory = "auto"'),)
    found = room(checkpoint, recipe)
    if found.enough or (asked is not Memory.RESIDENT and not why):
        return ()
    reason = f"{recipe.name} of {checkpoint.path} needs {found}"
    if why:
        return (Refusal(f"{reason}, and {why}", "use a machine with more memory, or fp8"),)
    return (Refusal(reason, 'quantize.memory = "auto" goes layer by layer'),)


def choose(checkpoint: Checkpoint, recipe: Recipe, asked: Memory) -> Way:
    """Decide how the model is held; what need not be whole never is, for it takes longer too."""
    if asked is Memory.RESIDENT or recipe.backend != "modelopt":
        return Way.WHOLE
    if not recipe.needs_texts:
        return Way.WHOLE if unstreamed(checkpoint, recipe) else Way.TENSORS
    if unlayered(recipe) or (asked is Memory.AUTO and room(checkpoint, recipe).enough):
        return Way.WHOLE
    return Way.LAYERS


def told(way: Way, checkpoint: Checkpoint, recipe: Recipe) -> str:
    """Return the name of the first step: for a model that does not fit it says why, in numbers."""
    if way is Way.LAYERS:
        return f"{way.value}: all at once needs {room(checkpoint, recipe)}"
    return "load the quantizer"


def unlayered(recipe: Recipe) -> str:
    """Say why a recipe cannot be calibrated layer by layer, or ""."""
    if recipe.mixed:
        return "the search of a mixture needs the whole model"
    if "AWQ" in recipe.preset:
        return "ModelOpt cannot export what AWQ changed in layers that lie on disk"
    return ""
