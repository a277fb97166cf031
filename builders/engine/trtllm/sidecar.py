"""`enginesmith.json`: where and how an engine was made, and whether this machine can run it.

TensorRT-LLM writes neither GPU nor TensorRT version into an engine, and a TensorRT plan loads on
the same TensorRT version and compute capability only (TensorRT-LLM issue 3031, tensorrtllm_backend
issue 235). So it is written here, and compared before Triton is started.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from builders import files
from builders.bundle import Tree
from builders.engine.sources import read_object
from builders.engine.trtllm.machine import Gpu, Machine, machine
from builders.errors import Refusal, UsageError
from builders.ledger import triton_image, trtllm_image
from builders.parse import Table

__all__ = ["FILE", "Machine", "Sidecar", "altered", "machine", "mismatches"]

FILE: Final = "enginesmith.json"
COMPILED: Final = "tensorrt"
_SCHEMA: Final = 1
_SLACK: Final = 0.02  # drivers keep a little more or less of the same GPU to themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """An engine's birth certificate.

    ``made_on`` is the machine that compiled it; for the LLM API, which compiles nothing, it says
    the compute capability that the configuration is for and leaves the rest open. Paths in
    ``argv`` are replaced by what they are, so that equal builds write equal files.
    """

    lane: str
    version: str
    world: int
    made_on: Machine
    argv: tuple[str, ...]
    tuning: str
    config_digest: str
    changes: tuple[str, ...]
    files: Tree

    @property
    def gpu(self) -> Gpu:
        """The GPU it was made for; all ranks have the same."""
        return self.made_on.gpus[0]

    def write(self, engine: Path) -> None:
        """Write it into the engine directory."""
        text = json.dumps(self.as_json(), indent=2, sort_keys=True)
        files.write_atomic(engine / FILE, text + "\n")

    def as_json(self) -> dict[str, object]:
        """Return it as one JSON object."""
        made = self.made_on
        return {
            "schema": _SCHEMA,
            "lane": self.lane,
            "version": self.version,
            "world": self.world,
            "gpu": {
                "name": self.gpu.name,
                "sm": self.gpu.sm,
                "memory_bytes": self.gpu.memory_bytes,
            },
            "tensorrt_llm": made.tensorrt_llm,
            "tensorrt": made.tensorrt,
            "cuda": made.cuda,
            "driver": made.driver,
            "container": made.container,
            "argv": list(self.argv),
            "tuning": self.tuning,
            "config_digest": self.config_digest,
            "changes": list(self.changes),
            "files": self.files.as_json(),
        }

    @classmethod
    def read(cls, engine: Path) -> Self:
        """Read it back; a directory without a sound one is a `UsageError` with the remedy."""
        file = engine / FILE
        if not file.is_file():
            raise UsageError(
                f"{file}: no such file, so nobody knows which GPU this engine is for",
                hint="enginesmith adopt takes in engines that others built",
            )
        data = read_object(file)
        try:
            with Table(data, place=str(file)) as table:
                return cls._parse(table, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{file}: not an engine's record ({error!r})", hint="build the engine again"
            ) from error

    @classmethod
    def _parse(cls, table: Table, data: Mapping[str, object]) -> Self:
        schema = table.whole("schema")
        if schema != _SCHEMA:
            raise ValueError(f"schema {schema}, not {_SCHEMA}")
        with table.table("gpu") as gpu:
            made_for = Gpu(
                name=gpu.text("name"), sm=gpu.whole("sm"), memory_bytes=gpu.whole("memory_bytes")
            )
        table.table("files")
        listed = data["files"]
        assert isinstance(listed, Mapping)
        return cls(
            lane=table.text("lane"),
            version=table.text("version"),
            world=table.whole("world", least=1),
            made_on=_made_on(table, made_for),
            argv=table.texts("argv"),
            tuning=table.text("tuning"),
            config_digest=table.text("config_digest"),
            changes=table.texts("changes"),
            files=Tree.from_json(listed),
        )


def _made_on(table: Table, gpu: Gpu) -> Machine:
    return Machine(
        gpus=(gpu,),
        driver=table.text("driver"),
        cuda=table.text("cuda"),
        tensorrt_llm=table.text("tensorrt_llm"),
        tensorrt=table.text("tensorrt"),
        container=table.text("container"),
    )


def certify(draft: Sidecar, engine: Path) -> Sidecar:
    """Hash every file of the engine directory into the record and write it there."""
    tree = Tree.of(engine)
    others = Tree(tuple(one for one in tree.artifacts if one.path != FILE))
    whole = replace(draft, files=others)
    whole.write(engine)
    return whole


def altered(sidecar: Sidecar, engine: Path) -> tuple[Refusal, ...]:
    """Return every file that is not as it was made; empty when all are."""
    found = {one.path: one for one in Tree.of(engine).artifacts if one.path != FILE}
    made = {one.path: one for one in sidecar.files.artifacts}
    remedy = "fetch or build the engine again"
    return tuple(
        Refusal(f"{engine / path} {_what(found.get(path), made.get(path))}", remedy)
        for path in sorted(found.keys() | made.keys())
        if found.get(path) != made.get(path)
    )


def _what(found: object, made: object) -> str:
    if found is None:
        return "is missing"
    return "does not belong to the engine" if made is None else "is not the file that was made"


def mismatches(sidecar: Sidecar, here: Machine) -> tuple[Refusal, ...]:
    """Return why this machine cannot run the engine; empty when it can."""
    if not here.gpus:
        return (
            Refusal(
                f"the engine is for {_called(sidecar.gpu)}, and this machine has no GPU",
                f"serve it on {_called(sidecar.gpu)}",
            ),
        )
    return (*_gpus(sidecar, here), *_versions(sidecar, here))


def _gpus(sidecar: Sidecar, here: Machine) -> Iterator[Refusal]:
    made_for = sidecar.gpu
    if len(here.gpus) < sidecar.world:
        yield Refusal(
            f"the engine has {sidecar.world} ranks, and this machine {len(here.gpus)} GPUs",
            "serve it where each rank has a GPU, or build with smaller tp and pp",
        )
    for gpu in dict.fromkeys(here.gpus[: sidecar.world]):
        if gpu.sm != made_for.sm:
            yield Refusal(
                f"the engine is for SM{made_for.sm} ({made_for.name or 'its tier'}), and "
                f"{gpu.name} is SM{gpu.sm}",
                f"build an engine for {gpu.name}: engines do not move between architectures",
            )
        elif made_for.name and gpu.name != made_for.name:
            yield Refusal(
                f"the engine was tuned on {made_for.name}, and this is {gpu.name}",
                f"build an engine on {gpu.name}: its kernels were chosen by timing",
            )
        elif gpu.memory_bytes < made_for.memory_bytes * (1 - _SLACK):
            yield Refusal(
                f"the engine was made on {made_for.memory_bytes >> 20} MiB of GPU memory, and "
                f"{gpu.name} has {gpu.memory_bytes >> 20} MiB here",
                "serve it on a whole GPU, or build it for this one",
            )


def _versions(sidecar: Sidecar, here: Machine) -> Iterator[Refusal]:
    made, image = sidecar.made_on, _image(sidecar)
    if here.tensorrt_llm != sidecar.version:
        found = here.tensorrt_llm or "none"
        yield Refusal(
            f"the engine needs TensorRT-LLM {sidecar.version}, and here is {found}",
            f"serve it in {image}",
        )
    if sidecar.lane != COMPILED:
        return
    if here.tensorrt != made.tensorrt:
        yield Refusal(
            f"the engine was built with TensorRT {made.tensorrt or 'unknown'}, and here is "
            f"{here.tensorrt or 'none'}: it loads in the same version only",
            f"serve it in {image}",
        )
    if _major(here.cuda) < _major(made.cuda):
        yield Refusal(
            f"the engine was built under CUDA {made.cuda}, and the driver {here.driver} here "
            f"reaches {here.cuda or 'none'}",
            f"update the driver to {made.driver} or newer",
        )
    if made.container and here.container and made.container != here.container:
        yield Refusal(
            f"the engine was built in {made.container}, and this is {here.container}",
            f"serve it in {made.container}",
        )


def _image(sidecar: Sidecar) -> str:
    if sidecar.made_on.container:
        return sidecar.made_on.container
    return triton_image(sidecar.version) or trtllm_image(sidecar.version)


def _called(gpu: Gpu) -> str:
    return f"{gpu.name} (SM{gpu.sm})" if gpu.name else f"a GPU of SM{gpu.sm}"


def _major(cuda: str) -> int:
    head = cuda.partition(".")[0]
    return int(head) if head.isdecimal() else 0
