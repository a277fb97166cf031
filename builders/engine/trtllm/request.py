"""What the pipeline hands to both lanes: the room's engine settings and what TensorRT-LLM adds."""

from dataclasses import dataclass, field
from pathlib import Path

from builders.engine.description import EngineSettings
from builders.engine.trtllm.llm_args import Options
from builders.engine.trtllm.settings import BuildSettings, quant_algo
from builders.errors import UsageError
from builders.recipe import Recipe
from builders.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtllmSettings(EngineSettings):
    """Engine settings for one recipe, tier and version of TensorRT-LLM.

    ``work`` keeps what an interrupted build has finished; without it nothing is kept. ``options``
    are for the LLM API, ``overrides`` are trtllm-build flags for compiled engines.
    """

    recipe: Recipe
    tier: Tier
    version: str
    tp: int = 1
    pp: int = 1
    max_num_tokens: int = 0
    work: Path | None = None
    options: Options = field(default_factory=Options)
    overrides: tuple[tuple[str, str], ...] = ()

    def build_settings(self, architecture: str) -> BuildSettings:
        """Return the pure settings for a checkpoint of this architecture."""
        return BuildSettings(
            architecture=architecture,
            sm=self.tier.sm,
            weights=self.recipe.weights,
            activations=self.recipe.activations,
            kv_cache=self.kv_cache,
            quant_algo=quant_algo(self.recipe),
            dtype=self.dtype,
            tp=self.tp,
            pp=self.pp,
            max_batch_size=self.concurrency,
            max_seq_len=self.context,
            max_num_tokens=self.max_num_tokens,
            overrides=self.overrides,
        )


def require(settings: EngineSettings) -> TrtllmSettings:
    """Return the settings as TensorRT-LLM's; others are a `UsageError`."""
    if not isinstance(settings, TrtllmSettings):
        raise UsageError(
            "TensorRT-LLM needs a recipe, a GPU tier and a version",
            hint='set target.tier, target.runtime = "trtllm" and target.runtime_version',
        )
    return settings
