"""Which experts of a mixture the calibration texts reached, counted while they are fed."""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from builders.errors import ToolError
from builders.progress import Progress


class Reached:
    """Counts the tokens that each expert of each mixture met.

    An expert that met none still gets sound scales: those of its weights come from the weights, and
    the input scale is one for all experts of a layer, set by those that met tokens.
    """

    def __init__(self) -> None:
        self._met: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def counted(self, model: nn.Module) -> Iterator[None]:
        """Count while the block runs."""
        hooks = [
            part.register_forward_pre_hook(partial(self._count, name), with_kwargs=True)
            for name, part in model.named_modules()
            if name.endswith(".experts") and int(getattr(part, "num_experts", 0))
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(
        self,
        name: str,
        part: nn.Module,
        positional: tuple[object, ...],
        named: dict[str, object],
    ) -> None:
        for value in (*positional, *named.values()):
            if isinstance(value, Tensor) and not value.is_floating_point():
                number = int(part.num_experts)  # type: ignore[arg-type] # transformers' own
                met = torch.bincount(value.flatten().cpu(), minlength=number)
                self._met[name] = self._met.get(name, torch.zeros_like(met)) + met
                return

    @property
    def unmet(self) -> dict[str, tuple[int, ...]]:
        """The experts that met no token, by the name of their mixture; those with none left out."""
        alone = {
            name: tuple((met == 0).nonzero().flatten().tolist()) for name, met in self._met.items()
        }
        return {name: experts for name, experts in alone.items() if experts}

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return sum(met.numel() for met in self._met.values())

    def tell(self, progress: Progress) -> None:
        """Say how many experts met no token, if any did not."""
        alone = sum(map(len, self.unmet.values()))
        if alone:
            met = self.experts - alone
            progress("experts met by calibration tokens", met, self.experts, unit="experts")

    def refuse(self) -> None:
        """Raise for experts that met no token."""
        for name, experts in self.unmet.items():
            some = ", ".join(map(str, experts[:8])) + (", …" if len(experts) > 8 else "")
            raise ToolError(
                f"no calibration token reached {len(experts)} experts of {name} ({some})",
                hint="give more or other calibration texts, or set quantize.calibration.unreached "
                '= "explain": their input scale is then that of the other experts',
            )
