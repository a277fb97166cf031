"""Feed calibration batches through a model, and name the layer at which it fails."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from torch import nn

from builders.errors import ToolError
from builders.progress import Progress
from builders.quantize.calibration import Batches, bucket

TOKENS: Final = 4096  # a batch on a CPU, or of one layer alone; more only takes memory
_MOST_TOKENS: Final = 16384

Computed = torch.Tensor | tuple[torch.Tensor, ...] | None
Compute = Callable[[nn.Module, Sequence[Sequence[int]]], Computed]


def forward(model: nn.Module, batch: Sequence[Sequence[int]]) -> torch.Tensor | None:
    """Compute the logits of rows of equal length; None where the forward is stopped on purpose."""
    place = next(model.parameters()).device
    logits: torch.Tensor | None = getattr(
        model(torch.tensor(batch, device=place), use_cache=False), "logits", None
    )
    return logits


def hidden(model: nn.Module, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, ...]:
    """Compute the last hidden states, and the logits of each row's last token.

    Calibration looks no further, for no head is rounded; all logits would be by far the largest
    tensor of a forward.
    """
    body: nn.Module = model.base_model  # type: ignore[assignment]
    place = next(model.parameters()).device
    states: torch.Tensor = body(torch.tensor(batch, device=place), use_cache=False)[0]
    head = model.get_output_embeddings()  # type: ignore[operator]
    return (states, head(states[:, -1])) if head is not None else (states,)


class Loop:
    """Feeds the batches through a model, tells how far it is, and names the layer that fails."""

    def __init__(self, batches: Batches, progress: Progress, compute: Compute = hidden) -> None:
        """Take what is fed, and how far a batch is computed."""
        self._batches = batches
        self._compute = compute
        self._progress = progress
        self._passes = 0
        self._at = ""

    @property
    def batches(self) -> Batches:
        """What is fed, batch by batch."""
        return self._batches

    @property
    def tokens(self) -> int:
        """How many tokens one walk through all batches feeds."""
        return sum(len(row) for batch in self._batches for row in batch)

    def run(self, model: nn.Module) -> None:
        """Run every batch once; ModelOpt calls this once or several times, by algorithm."""
        self._passes += 1
        what = "calibrate" if self._passes == 1 else f"calibrate, pass {self._passes}"
        with self.watched(model):
            for batch in self.walk(what):
                self.feed(model, batch)

    def walk(self, what: str) -> Iterator[Sequence[Sequence[int]]]:
        """Yield every batch once, telling how far the step ``what`` is."""
        total, done = self.tokens, 0
        self._progress(what, done, total, unit="tokens")
        for batch in self._batches:
            yield batch
            done += sum(len(row) for row in batch)
            self._progress(what, done, total, unit="tokens")

    def feed(self, model: nn.Module, batch: Sequence[Sequence[int]]) -> None:
        """Run one batch; activations out of range are a `ToolError` that names the layer."""
        try:
            found = self._compute(model, batch)
        except AssertionError as error:  # ModelOpt's calibrator met NaN or infinity
            raise not_finite(self._at) from error
        parts = found if isinstance(found, tuple) else (found,)
        if not all(bool(torch.isfinite(part).all()) for part in parts if part is not None):
            raise not_finite("the output")

    @contextlib.contextmanager
    def watched(self, model: nn.Module) -> Iterator[None]:
        """Know which layer is computed while the block runs."""
        hooks = [
            part.register_forward_pre_hook(partial(self._enter, name))
            for name, part in quantizers(model)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def at(self) -> str:
        """The layer that was computed last, while the loop watched."""
        return self._at

    def _enter(self, name: str, *_: object) -> None:
        self._at = name.rpartition(".")[0]


def batched(model: nn.Module, rows: Sequence[Sequence[int]], compute: Compute = hidden) -> Batches:
    """Group rows into batches, on a GPU as large as its memory takes.

    The size is found by running the largest batch through the model before its calibration, where
    running out of memory costs nothing but a smaller second try. Calibrations keep more tensors
    than that: half of what fits is taken.
    """
    if next(model.parameters()).device.type != "cuda":
        return bucket(rows, tokens=TOKENS)
    return bucket(rows, tokens=fitting(model, rows, compute, most=_MOST_TOKENS))


def fitting(model: nn.Module, rows: Sequence[Sequence[int]], compute: Compute, *, most: int) -> int:
    """Return half the tokens of the largest batch that runs; a single row that does not is told."""
    tokens = most
    while True:
        batches = bucket(rows, tokens=tokens)
        widest = max(batches, key=lambda batch: len(batch) * len(batch[0]))
        try:
            with torch.no_grad():
                compute(model, widest)
        except torch.OutOfMemoryError as error:
            if max(len(batch) for batch in batches) == 1:
                raise ToolError(
                    f"one calibration text of {len(widest[0])} tokens does not fit in GPU memory "
                    "beside the model",
                    hint="set a smaller quantize.calibration.length, or use a larger GPU",
                ) from error
            tokens //= 2
            torch.cuda.empty_cache()
        else:
            return max(tokens // 2, 1)


@contextlib.contextmanager
def without_bars(module: Any) -> Iterator[None]:  # noqa: ANN401 - a module of ModelOpt's
    """Keep a module's progress bars off the terminal; ours tell the same."""
    shown = module.tqdm
    module.tqdm = lambda *given, **named: shown(*given, **(named | {"disable": True}))
    try:
        yield
    finally:
        module.tqdm = shown


def not_finite(where: str) -> ToolError:
    """Say where activations went out of range."""
    return ToolError(
        f"activations at {where} are not finite while calibrating",
        hint="is the source sound? float16 overflows where bfloat16 does not: convert it",
    )


def quantizers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every quantizer that ModelOpt put into a model, by name."""
    return (pair for pair in model.named_modules() if isinstance(pair[1], TensorQuantizer))


def is_of_weight(name: str) -> bool:
    """Whether a quantizer's name is that of weights, of fused experts too."""
    return "weight_quantizer" in name  # gate_up_proj_weight_quantizers.0
