"""How a checkpoint is written for trtllm-build instead of as a Hugging Face export."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The decoder by ModelOpt's name, the dtype by torch's, and the ranks it is cut for."""

    decoder_type: str
    dtype: str
    tp: int = 1
    pp: int = 1
