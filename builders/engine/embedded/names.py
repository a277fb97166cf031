"""What a file calls the tensors that a module calls otherwise.

Transformers renames some modules and goes on reading the names of published files: Mixtral's
`block_sparse_moe` is `mlp` there. Its own table is asked, so that both agree.
"""

from collections.abc import Iterable

from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key


class Names:
    """The names in a checkpoint's files by the names in a module."""

    def __init__(self, module: nn.Module, stored: Iterable[str]) -> None:
        """Ask transformers what it would call each of the names ``stored``."""
        known = get_model_conversion_mapping(module)
        renamings = [one for one in known if isinstance(one, WeightRenaming)]
        wanted = dict(module.state_dict())
        prefix = str(getattr(module, "base_model_prefix", ""))
        self._stored = {
            rename_source_key(name, renamings, [], prefix, wanted)[0]: name for name in stored
        }

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def stored(self, name: str) -> str:
        """Return what the files call a tensor; one that no file has keeps its name."""
        return self._stored.get(name, name)
