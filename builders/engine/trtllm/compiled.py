"""Compile engines with trtllm-build, one process per rank; keep what is finished, check what came.

The thin edge of the `tensorrt` lane. It runs on the GPU that the engine is for, inside the image
that has this version of TensorRT-LLM; everything it can refuse is refused before that starts.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders import files, process
from builders.bundle import Tree, fingerprint
from builders.engine.description import Description, EngineSettings
from builders.engine.trtllm import keys, launch, rewrites
from builders.engine.trtllm.adopt import Adopted, adopt
from builders.engine.trtllm.effective import Difference, Effective, compare
from builders.engine.trtllm.flags import TUNING, Places, build_argv
from builders.engine.trtllm.log import BuildLog
from builders.engine.trtllm.machine import Machine, machine
from builders.engine.trtllm.request import TrtllmSettings, require
from builders.engine.trtllm.settings import BuildSettings
from builders.engine.trtllm.sidecar import Sidecar, certify
from builders.errors import PlanError, Refusal, ToolError, UsageError
from builders.formats import Format
from builders.ledger import support, triton_image, trtllm_image
from builders.progress import Progress

_KEPT: Final = (
    "config.json",
    "quant_cfg.json",
    "rank*.engine",
    "rank*_managed_weights.safetensors",
)
TOKENIZER: Final = "tokenizer"  # beside the weights of a checkpoint, where it has one
_ERROR: Final = re.compile(r"\] \[E\] |^(?:\[[^\]]*\]<\w+>:)?[A-Za-z.]*(?:Error|Exception):")
_CAUSES: Final = 5
_PERIOD: Final = 0.2  # seconds between two looks at the log
# What the end of a log says, and what to do about it.
_CURES: Final = (
    (
        "out of memory",
        "build with smaller limits, with more tp, or on a GPU with nothing else on it",
    ),
    ("No space left on device", "free disk space: engines are as large as their weights"),
    ("Unsupported model architecture", "use the llmapi lane"),
    ("is not supported on SM", "leave the plugin out, or build for another tier"),
    ("timing cache", "remove the timing cache: it belongs to another GPU or TensorRT"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did: predicted changes, differences nobody predicted, warnings it printed."""

    sidecar: Sidecar
    rewrites: tuple[rewrites.Rewrite, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]


def build(
    checkpoint: Path,
    settings: EngineSettings,
    out: Path,
    progress: Progress,
    *,
    owned: bool = False,  # noqa: ARG001 - nothing of the checkpoint stays in an engine
) -> None:
    """Fill ``out`` with engines made from a TensorRT-LLM checkpoint, `engine.json` and a record."""
    compile_engines(checkpoint, require(settings), out, progress, here=machine())


def compile_engines(
    checkpoint: Path, request: TrtllmSettings, out: Path, progress: Progress, *, here: Machine
) -> Built:
    """Do the same on a machine that was looked at before, and tell what happened."""
    source = adopt(checkpoint)
    settings = request.build_settings(source.architecture)
    _refuse(source, settings, request, here)
    root = _identity(checkpoint, source)
    versions = {"tensorrt_llm": request.version, "tensorrt": here.tensorrt, "cuda": here.cuda}
    inputs = keys.cache_inputs(settings, root, versions, here.gpus[0])
    with files.disk_errors(f"building {out}"):
        out.mkdir(parents=True, exist_ok=True)
        place = (request.work or out / ".work") / fingerprint(inputs)[:16]
        with files.locked(place.with_suffix(".lock")):  # outlives the directory it guards
            job = _Job(settings=settings, checkpoint=checkpoint, place=place, here=here)
            log = job.run(progress)
            return _finish(job, request, log, out)


def _identity(checkpoint: Path, source: Adopted) -> str:
    """Tell one checkpoint from another without reading weights: enough to go on with a build."""
    stats = [(name, (checkpoint / name).stat()) for name in source.files]
    return fingerprint(
        [source.config_digest, [[name, s.st_size, s.st_mtime_ns] for name, s in stats]]
    )


def _refuse(
    source: Adopted, settings: BuildSettings, request: TrtllmSettings, here: Machine
) -> None:
    found = (
        *support(request.recipe, request.tier, "trtllm", request.version, only=rewrites.LANE),
        *rewrites.refusals(settings, request.version),
        *_unlike(source, settings),
        *_elsewhere(settings, request.version, here),
    )
    if found:
        raise PlanError(tuple(dict.fromkeys(found)))


def _unlike(source: Adopted, settings: BuildSettings) -> Iterator[Refusal]:
    """The checkpoint on disk decides what is built; the settings only say what was meant."""
    if source.kind != "checkpoint":
        yield Refusal("trtllm-build needs a checkpoint, not an engine", "name the checkpoint")
        return
    pairs = {
        "tp": (source.tp, settings.tp),
        "pp": (source.pp, settings.pp),
        "quant_algo": (source.quant_algo or "none", settings.quant_algo or "none"),
        "a KV cache in": (_cache(source.kv_cache), _cache(settings.kv_cache)),
    }
    for what, (found, meant) in pairs.items():
        if found != meant:
            yield Refusal(
                f"the checkpoint was exported with {what} {found}, and {meant} is asked for",
                "export the checkpoint again, or ask for what it is",
            )


def _cache(fmt: Format) -> str:
    return str(fmt.value) if fmt.quantized else "the model's own format"


def _elsewhere(settings: BuildSettings, version: str, here: Machine) -> Iterator[Refusal]:
    image = triton_image(version) or trtllm_image(version)
    if len(here.gpus) < settings.world:
        yield Refusal(
            f"{settings.world} ranks need {settings.world} GPUs, and here are {len(here.gpus)}",
            f"build in {image} on a machine with them",
        )
    for gpu in dict.fromkeys(here.gpus):
        if gpu.sm != settings.sm:
            yield Refusal(
                f"an engine for SM{settings.sm} cannot be built on {gpu.name} (SM{gpu.sm})",
                "build it on the GPU it is for: TensorRT chooses kernels by timing them there",
            )
    if here.tensorrt_llm != version:
        yield Refusal(
            f"an engine for TensorRT-LLM {version} needs that version to build it, and here is "
            f"{here.tensorrt_llm or 'none'}",
            f"build in {image}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One build in its own directory, which outlives a killed run."""

    settings: BuildSettings
    checkpoint: Path
    place: Path
    here: Machine

    @property
    def engine(self) -> Path:
        return self.place / "engine"

    @property
    def timing(self) -> Path:
        """Where the kernels' timings are kept: they hold for one GPU and one TensorRT only."""
        gpu = self.here.gpus[0]
        key = fingerprint([gpu.name, gpu.sm, self.here.tensorrt])[:16]
        return self.place.parent / "timing" / f"{key}.cache"

    def argv(self) -> tuple[str, ...]:
        places = Places(
            checkpoint=self.checkpoint,
            engine=self.engine,
            timing_in=self.timing if self.timing.is_file() else None,
            timing_out=self.place / "model.cache",
        )
        return build_argv(self.settings, places)

    def run(self, progress: Progress) -> BuildLog:
        """Build the ranks that are missing, and read on in the logs of earlier attempts."""
        log, attempts = BuildLog(self.settings.world), sorted(self.place.glob("build-*.log"))
        for earlier in attempts:
            log.feed(earlier.read_text(encoding="utf-8", errors="replace"))
            log.again()
        log.serialized &= self._there()
        progress("compile", len(log.serialized), self.settings.world, unit="engines")
        if len(log.serialized) < self.settings.world or not (self.engine / "config.json").is_file():
            if not (self.engine / "config.json").is_file():
                log.serialized.discard(0)  # rank 0 writes it, before its engine
            log.again()
            self._compile(log, self.place / f"build-{len(attempts):03}.log", progress)
        return log

    def _there(self) -> set[int]:
        found = self.engine.glob("rank*.engine")
        return {int(p.stem.removeprefix("rank")) for p in found if p.stat().st_size}

    def _compile(self, log: BuildLog, file: Path, progress: Progress) -> None:
        argv = launch.mpi_argv(self.argv(), self.settings.world, log.serialized)
        self.engine.mkdir(parents=True, exist_ok=True)
        _watch(argv, file, launch.environment(os.environ), log, progress)
        absent = set(range(self.settings.world)) - self._there()
        if absent:
            raise ToolError(
                f"trtllm-build ended well and wrote no engine for rank {min(absent)}",
                hint=f"the whole log: {file}",
            )
        written = self.place / "model.cache"
        if written.is_file():
            self.timing.parent.mkdir(parents=True, exist_ok=True)
            written.replace(self.timing)


def _watch(
    argv: tuple[str, ...], file: Path, env: Mapping[str, str], log: BuildLog, progress: Progress
) -> None:
    """Run a program, telling how far its log says it is; a failure says what to do about it."""
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise ToolError(
            f"{argv[0]}: no such program", hint="run inside the image that has TensorRT-LLM"
        )
    child = process.start(argv, log=file, env=env)
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            while child.poll() is None:
                time.sleep(_PERIOD)
                _tell(log, lines.read(), progress)
            _tell(log, lines.read(), progress)
    except BaseException:
        process.stop(child)
        raise
    if child.returncode:
        raise _failure(argv[0], child.returncode, file)


def _tell(log: BuildLog, text: str, progress: Progress) -> None:
    log.feed(text)
    progress(f"compile: {log.step}", min(log.done, log.world), log.world, unit="engines")


def _failure(program: str, code: int, file: Path) -> ToolError:
    """Say the lines that say error: what mpirun says after them buries the cause."""
    text = file.read_text(encoding="utf-8", errors="replace")
    causes = "\n".join([line for line in text.splitlines() if _ERROR.search(line)][-_CAUSES:])
    cure = next((cure for sign, cure in _CURES if sign in causes), "")
    hint = f"{cure}; the whole log: {file}" if cure else f"the whole log: {file}"
    said = causes or process.tail(file)
    return ToolError(f"{program} exited {code}:\n{said}", hint=hint)


def _finish(job: _Job, request: TrtllmSettings, log: BuildLog, out: Path) -> Built:
    """Hold the engine against what was asked, then move it to its place and certify it."""
    found = _checked(job, request)
    differences = compare(job.settings, found)
    fatal = [one for one in differences if one.fatal]
    if fatal:
        raise ToolError(
            f"{job.engine}: the engine is not what was asked for: {fatal[0]}",
            hint=f"remove {job.place} and build again; report it if it stays so",
        )
    predicted = rewrites.predict_rewrites(job.settings)
    for path in _kept(job.engine):
        files.place(path, out / path.name, owned=True)
    for path in sorted((job.checkpoint / TOKENIZER).rglob("*")):
        if path.is_file():
            target = out / path.relative_to(job.checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            files.place(path, target, owned=False)
    quantization = job.settings.quant_algo
    Description(
        runtime=rewrites.LANE, version=request.version, settings=request, quantization=quantization
    ).write(out)
    draft = Sidecar(
        lane=rewrites.LANE,
        version=request.version,
        world=job.settings.world,
        made_on=job.here,
        argv=_recorded(job),
        tuning=TUNING,
        config_digest=found.digest,
        changes=(*map(str, predicted), *map(str, differences)),
        files=Tree(()),
    )
    if request.work is None:
        shutil.rmtree(out / ".work")
    sidecar = certify(draft, out)
    shutil.rmtree(job.place, ignore_errors=True)  # kept until the engine is whole elsewhere
    return Built(
        sidecar=sidecar,
        rewrites=predicted,
        differences=differences,
        warnings=tuple(log.warnings),
    )


def _kept(engine: Path) -> list[Path]:
    return sorted(path for pattern in _KEPT for path in engine.glob(pattern))


def _checked(job: _Job, request: TrtllmSettings) -> Effective:
    found = Effective.read(job.engine)
    if found.version != request.version:
        raise UsageError(
            f"{job.engine}: built by TensorRT-LLM {found.version}, not {request.version}",
            hint="build in the image of the version asked for",
        )
    return found


def _recorded(job: _Job) -> tuple[str, ...]:
    """The command line with its places named, not spelled: equal builds have equal records."""
    places = Places(checkpoint=Path("/checkpoint"), engine=Path("/engine"))
    return launch.mpi_argv(build_argv(job.settings, places), job.settings.world)
