"""LLM.int8(): most of a product in INT8, and what outlier columns add to it in 16 bits."""

import torch
from torch import Tensor

from builders.engine.embedded.linear import Linear
from builders.numerics.packed import outliers


class MixedLinear(Linear):
    """A layer whose rounding leaves out the columns in which a token has a large value.

    Which columns these are follows from all tokens of one call, as in bitsandbytes: a token's
    result depends on its company there, too.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer to the last dimension."""
        regular = super().forward(values)
        large = outliers(values)
        if not bool(large.any()):
            return regular
        rest = torch.where(large, values, torch.zeros((), dtype=values.dtype, device=values.device))
        sums = self.matrix.times(rest) * (1.0 if self.gain is None else self.gain)
        return (regular.float() + sums).to(self.dtype)
