"""What trtllm-build's log says: how far each rank is, which engines are written, what it changed.

TensorRT-LLM's own sentences are those of `builder.py`, `commands/build.py` and `_common.py` of the
1.1 to 1.2 line; TensorRT's own are those of published logs. A sentence that another version words
differently costs progress, never the build. That an engine is whole rests on one sentence only,
and on it alone: a file that was never reported as serialized is built again.
"""

import re
from dataclasses import dataclass, field
from typing import Final

# "[TRT-LLM] [RANK 3] [I] …" since 2025, "[MPI_Rank 3]" before (logger.py@027cd518); none for one
# process. "[1,3]<stderr>:" is what mpirun --tag-output adds.
_TAG: Final = re.compile(r"\[(?:RANK|MPI_Rank) (\d+)\]|^\[\d+,(\d+)\]<std")
_WARNING: Final = re.compile(r"\[TRT-LLM\](?: \[(?:RANK|MPI_Rank) \d+\])? \[W\] (.+)")
_TO: Final = re.compile(r"Serializing engine to .*?rank(\d+)\.engine\.\.\.")
_SERIALIZED: Final = "Engine serialized. Total time"
# How much of a rank's build is behind it when the sentence appears, by the clock of published logs:
# choosing kernels takes nearly all of it.
_STEPS: Final = (
    ("TensorRT LLM inited", "load TensorRT-LLM", 0.02),
    ("TensorRT-LLM inited", "load TensorRT-LLM", 0.02),
    ("Total time of constructing network from module object", "construct the network", 0.10),
    ("Total optimization profiles added", "add profiles", 0.11),
    ("Total time to initialize the weights in network", "fill the weights", 0.15),
    ("Build TensorRT engine", "choose kernels", 0.15),
    ("Local timing cache in use", "choose kernels", 0.20),
    ("Global timing cache in use", "choose kernels", 0.20),
    ("Compiler backend is used during engine build", "choose kernels", 0.30),
    ("network tensors.", "choose kernels", 0.70),
    ("Engine generation completed in", "choose kernels", 0.85),
    ("Total time of building all engines", "finish", 1.0),
    ("Total time of building", "build the engine", 0.90),
    ("Timing cache serialized to", "keep the timing cache", 0.91),
    ("Build phase peak memory", "keep the timing cache", 0.92),
    ("Serializing engine to", "write the engine", 0.93),
)


@dataclass(slots=True)
class BuildLog:
    """Reads a growing log line by line; ``feed`` takes it in pieces of any size."""

    world: int
    step: str = "start"
    serialized: set[int] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    _share: dict[int, float] = field(default_factory=dict)
    _writing: dict[int | None, set[int]] = field(default_factory=dict)
    _rest: str = ""

    def feed(self, text: str) -> None:
        """Take the next piece of the log; a line counts once it has ended."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    @property
    def done(self) -> float:
        """How many ranks' worth of work is behind, from 0 to the number of ranks."""
        return sum(self._share.values())

    def again(self) -> None:
        """Begin the log of another attempt: written engines stay, half-written ones do not."""
        self._rest = ""
        self._writing.clear()
        self._share = dict.fromkeys(self.serialized, 1.0)

    def _line(self, line: str) -> None:
        tag = _TAG.search(line)
        rank = int(tag[1] or tag[2]) if tag else None
        warned = _WARNING.search(line)
        if warned and warned[1] not in self.warnings:
            self.warnings.append(warned[1])
        for sentence, step, share in _STEPS:
            if sentence in line:
                self.step = step
                self._reach(rank, share)
                break
        if to := _TO.search(line):
            self._begin(rank, int(to[1]))
        elif _SERIALIZED in line:
            self._end(rank)

    def _begin(self, tag: int | None, rank: int) -> None:
        self.serialized.discard(rank)
        self._writing.setdefault(tag, set()).add(rank)

    def _end(self, tag: int | None) -> None:
        """Without tags, only one engine may be on its way for the sentence to be about it."""
        writing = self._writing.pop(tag, set())
        if len(writing) == 1:
            (rank,) = writing
            self.serialized.add(rank)
            self._share[rank] = 1.0

    def _reach(self, rank: int | None, share: float) -> None:
        """A line without a rank is about the one rank there is, or the next of a row of them."""
        at = len(self.serialized) if rank is None else rank
        if at < self.world:
            self._share[at] = max(self._share.get(at, 0.0), share)
