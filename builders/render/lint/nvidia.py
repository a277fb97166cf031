"""NVIDIA's models for compiled engines, held against their contract."""

from collections.abc import Iterator, Mapping
from typing import Final

from builders.parse import nearest
from builders.render.contract import Contract, contracts
from builders.render.lint.finding import Finding, Severity
from builders.render.lint.pbtxt import PLACEHOLDER
from builders.render.lint.repository import Model, Repository

FAMILY: Final = "inflight_batcher_llm"
# Parameters that are not of the contract and no mistake: the Python backend's, and our own.
_OTHERS: Final = frozenset(
    {
        "EXECUTION_ENV_PATH",
        "FORCE_CPU_ONLY_INPUT_TENSORS",
        "engine_digest",
        "enginesmith",
        "max_tokens",
    }
)
_TRUE: Final = frozenset({"true", "t", "1", "y", "yes"})


def part(model: Model) -> str:
    """Return which of NVIDIA's models this is, "" for none."""
    if model.backend == "tensorrtllm":
        return "tensorrt_llm"
    if model.backend == "python" and (model.home / "1" / "model.yaml").is_file():
        return ""  # the LLM API's model, which has its own rules
    if model.backend == "python" and "tensorrt_llm_model_name" in model.parameters:
        return "tensorrt_llm_bls"
    alike = {"python": ("preprocessing", "postprocessing", "tensorrt_llm_bls", "tensorrt_llm")}
    return model.name if model.name in alike.get(model.backend, ()) else ""


def parameters(_: Repository, model: Model) -> Iterator[Finding]:
    """Every parameter is one that the model reads, with a value that it takes."""
    known = contracts(FAMILY).get(part(model))
    if known is None:
        return
    for key, field in model.parameters.items():
        if key not in known.parameters and key not in _OTHERS:
            hint = nearest(key, known.parameters)
            typo = hint.startswith("did you mean")
            yield model.finding(
                "parameter",
                f"parameter {key} is none that {part(model)} reads",
                hint if typo else "leave it out, unless your version reads it",
                line=field.line,
                severity=Severity.STOP if typo else Severity.WARN,
            )
    yield from _values(model, known)


def _values(model: Model, known: Contract) -> Iterator[Finding]:
    for key, parameter in known.parameters.items():
        field = model.parameters.get(key)
        said = field.text if field else ""
        if parameter.required and (not said or PLACEHOLDER.search(said)):
            yield model.finding(
                "parameter",
                f"parameter {key} is required and not set",
                f"set {key}" + (f": {', '.join(parameter.choices)}" if parameter.choices else ""),
                line=field.line if field else 0,
            )
        elif _wrong(said, parameter.choices):
            yield model.finding(
                "parameter",
                f"parameter {key} cannot be {said!r}",
                f"one of {', '.join(parameter.choices)}",
                line=field.line if field else 0,
            )


def _wrong(said: str, choices: tuple[str, ...]) -> bool:
    """NVIDIA's docs write decoding_mode in braces."""
    return bool(choices and said and not PLACEHOLDER.search(said)) and (
        said.strip("{} ") not in choices
    )


def streaming(repository: Repository, model: Model) -> Iterator[Finding]:
    """What calls an engine streams if the engine does, and the other way round."""
    if part(model) != "tensorrt_llm_bls":
        return
    called = model.parameter("tensorrt_llm_model_name") or "tensorrt_llm"
    engine = repository.models.get(called)
    if engine is None:
        yield model.finding(
            "wiring",
            f"tensorrt_llm_model_name {called} is not in the repository",
            nearest(called, repository.models),
            line=_line(model, "tensorrt_llm_model_name"),
        )
        return
    if engine.decoupled != model.decoupled:
        yield model.finding(
            "decoupled",
            f"decoupled is {_word(model.decoupled)} here and {_word(engine.decoupled)} in {called}",
            "say the same in both: a streamed request fails otherwise",
            line=model.line("model_transaction_policy", "decoupled"),
        )
    if model.instances < engine.max_batch_size:
        yield model.finding(
            "instances",
            f"{model.instances} instances answer as many requests at once, and the engine takes "
            f"{engine.max_batch_size}",
            f"set the count to {engine.max_batch_size}",
            line=model.line("instance_group"),
            severity=Severity.WARN,
        )


def undecoupled(repository: Repository, model: Model) -> Iterator[Finding]:
    """A client that may ask for a stream can have one."""
    if part(model) != "tensorrt_llm" or model.decoupled or "streaming" not in model.names("input"):
        return
    callers = [one for one in repository.models.values() if "stream" in one.names("input")]
    if callers:
        yield model.finding(
            "decoupled",
            f"is not decoupled, and clients of {callers[0].name} may ask for a stream",
            "model_transaction_policy { decoupled: true }: a request with stream fails otherwise",
            line=model.line("model_transaction_policy", "decoupled"),
            severity=Severity.WARN,
        )


def engine(_: Repository, model: Model) -> Iterator[Finding]:
    """One process a rank has one instance, and says so."""
    if part(model) != "tensorrt_llm" or model.backend != "tensorrtllm":
        return
    lists = _lists(model.parameter("gpu_device_ids"))
    if model.instances > 1 and model.instances != len(lists):
        yield model.finding(
            "instances",
            f"{model.instances} instances of one engine need as many lists of GPUs, and "
            f"gpu_device_ids has {len(lists)}",
            "count: 1, or one list for each instance, with semicolons between",
            line=model.line("instance_group"),
        )


def _lists(text: str) -> list[list[str]]:
    return [part.split(",") for part in text.split(";") if part.strip()]


def lists(model: Model) -> list[list[str]]:
    """Return the GPUs of each instance, where ``gpu_device_ids`` says them."""
    return _lists(model.parameter("gpu_device_ids"))


def yes(text: str) -> bool:
    """Whether a parameter says yes."""
    return text.lower() in _TRUE


def _line(model: Model, key: str) -> int:
    return model.parameters[key].line if key in model.parameters else 0


def _word(value: bool) -> str:  # noqa: FBT001 - a word is made of a truth
    return "true" if value else "false"


def line_of(parameters: Mapping[str, object], key: str) -> int:
    """Return a parameter's line, 0 where it is absent."""
    return getattr(parameters.get(key), "line", 0)
