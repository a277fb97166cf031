"""What an examination finds: one rule broken in one place, how bad that is, and the remedy."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """``stop``: nothing may be built from this checkpoint. ``warn``: know it before you go on."""

    STOP = "stop"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule broken: the tensor, module, key or file, what is wrong there, and what to do."""

    rule: str
    where: str
    what: str
    hint: str
    severity: Severity

    @property
    def stops(self) -> bool:
        """Whether it stops the line."""
        return self.severity is Severity.STOP


@dataclass(frozen=True, slots=True)
class Rule:
    """How bad it is to break a rule, and the usual remedy."""

    severity: Severity
    hint: str


def _stop(hint: str) -> Rule:
    return Rule(Severity.STOP, hint)


def _warn(hint: str) -> Rule:
    return Rule(Severity.WARN, hint)


_FETCH: Final = "fetch this file again"
_AGAIN: Final = "quantize again, and report it to the tool that wrote this if it stays so"
_COPY: Final = "copy the file of the base checkpoint over it"

RULES: Final[Mapping[str, Rule]] = {
    # files
    "shard-missing": _stop("fetch the missing shards again"),
    "shard-damaged": _stop(_FETCH),
    "index-disagrees": _stop("fetch the index and all shards of one revision again"),
    "index-missing": _stop("fetch it: without it transformers finds only a single shard"),
    "tensors-overlap": _stop("readers refuse such a file: save or fetch it again"),
    "file-unread": _warn("delete it, or name its tensors in the index"),
    "file-unreadable": _stop("make it readable: chmod a+r"),
    "file-private": _warn("a server that runs as another user cannot read it: chmod a+r"),
    "pickle": _warn("it can run code when loaded: delete it, the safetensors weights are enough"),
    "remote-code": _warn("nobody here runs it; a runtime that needs it must be told to trust it"),
    # what is declared against what is stored
    "declaration-missing": _stop(_AGAIN),
    "declaration-beside-missing": _warn(
        "keep ModelOpt's own file: some readers take the KV cache's format from it alone"
    ),
    "declarations-disagree": _stop("readers differ in which one they believe: quantize again"),
    "layer-unquantized": _stop("quantize again, or declare this layer as left alone"),
    "layer-undeclared": _stop("quantize again, or take this layer off the exclusions"),
    "layers-kept-silently": _warn("check that the runtime leaves the same layers alone"),
    "layer-sensitive": _stop("quantize again and leave this layer alone"),
    "norm-quantized": _stop("quantize again and leave the norms alone"),
    "size-differs": _warn("some layers are stored wider than declared, or twice"),
    # the tensors of one layer
    "part-missing": _stop(_AGAIN),
    "part-dtype": _stop(_AGAIN),
    "part-shape": _stop(_AGAIN),
    "part-stray": _stop(_AGAIN),
    "part-orphan": _stop("the weight is lost: fetch or quantize again"),
    "input-scale-missing": _stop(
        "the static format was not calibrated: give more or longer calibration texts, so that "
        "tokens reach this layer"
    ),
    # values
    "scale-nan": _stop(_AGAIN),
    "scale-not-positive": _stop("look for zero or damaged weights in this layer"),
    "scale-underflow": _warn("the weights of these blocks are lost: a recipe with larger groups"),
    "scale-ones": _stop(
        "nothing was calibrated: give more or longer calibration texts, and quantize again"
    ),
    "scales-apart": _warn(
        "vLLM and TensorRT-LLM take the largest and round the others again, so what they serve is "
        "not what is stored here: give such projections one scale"
    ),
    "weights-zero": _stop("the writer lost them (offloaded to disk, never loaded): quantize again"),
    "weights-zero-in-part": _warn(
        "were whole rows pruned on purpose? else the writer lost them: quantize again"
    ),
    "norm-zero": _warn("compare with the original: an empty tensor was written, or none trained"),
    "tensor-empty": _stop("the writer lost it (offloaded to disk, never loaded): quantize again"),
    # KV cache
    "kv-scale-missing": _stop("give more or longer calibration texts, or leave the KV cache alone"),
    "kv-cast": _warn("calibrated scales are safer: quantize with a KV cache format and texts"),
    "kv-scale-undeclared": _warn("declare the KV cache format, or drop these scales"),
    "kv-attention-bias": _warn(
        "judge it with long prompts: large keys from the bias overflow FP8 in some models"
    ),
    # the model as a whole
    "layer-missing": _stop("fetch or save the weights again"),
    "output-missing": _stop("save it again with its lm_head, or set tie_word_embeddings"),
    "tied-broken": _stop("save it again: one of the two tensors would be dropped by readers"),
    "tensor-unused": _warn("delete it, or find out which reader wants it"),
    # settings
    "rope-new-only": _warn("write rope_theta and rope_scaling beside rope_parameters"),
    "rope-old-only": _warn("write rope_parameters beside rope_theta and rope_scaling"),
    "rope-disagrees": _stop("take the settings of the original model, in both forms"),
    "tokenizer-missing": _stop("copy the tokenizer files of the original model beside the weights"),
    "tokenizer-class": _warn("copy tokenizer_config.json of the original model over it"),
    "vocabulary-too-large": _stop("do the tokenizer and the weights belong together?"),
    # against the base checkpoint
    "base-unlike": _warn("give the checkpoint that this one was made from"),
    "base-tensor-missing": _stop(_AGAIN),
    "base-tensor-extra": _stop(_AGAIN),
    "base-bias-extra": _warn("some GPTQ tools write a bias of zeros; others misread the model"),
    "base-shape": _stop("do the two belong together? else quantize again"),
    "base-dtype": _warn("what is left alone should stay as it was"),
    "base-config": _stop("take the value of the base checkpoint, or give the right base"),
    "base-rope": _stop("take the rope settings of the base checkpoint"),
    "tokenizer-differs": _stop(_COPY),
    "tokenizer-step-differs": _warn("it may be the same in other words; else copy the base's"),
    "chat-template-differs": _stop(_COPY),
    "special-tokens-differ": _stop(_COPY),
    "padding-differs": _warn(_COPY),
    "generation-differs": _warn(_COPY),
}


def found(
    rule: str, where: str, what: str, *, hint: str = "", severity: Severity | None = None
) -> Finding:
    """Return the finding that ``rule`` is broken, with the rule's severity and remedy."""
    known = RULES[rule]
    return Finding(
        rule=rule,
        where=where,
        what=what,
        hint=hint or known.hint,
        severity=severity or known.severity,
    )
