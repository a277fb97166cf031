"""Score an answer by a JSON schema. Reads nothing from the network, whatever a schema refers to."""

import json
import re
from typing import Any, Final

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from builders.errors import EvidenceError, UsageError
from builders.gate.answering import patterns
from builders.gate.answering.scorers import Expected, Scorer

# An answer may stand in one fenced block, as chat models write it.
_FENCED: Final = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)


def score(expected: Expected, answer: str) -> float:
    """Accept an answer that is JSON, alone or in one fenced block, and valid to a schema."""
    fenced = _FENCED.fullmatch(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    with patterns.bounded(
        f"prompt {expected.id}: a schema's pattern takes too long on this answer"
    ):
        return float(any(_valid(text, value, expected.id) for text in expected.expect))


def check(expected: Expected, place: str) -> None:
    """Refuse what is no schema, and one that refers to another document."""
    for text in expected.expect:
        try:
            schema = json.loads(text)
            validator_for(schema).check_schema(schema)
        except (ValueError, SchemaError, TypeError, AttributeError) as error:
            said = error.message if isinstance(error, SchemaError) else str(error)
            raise UsageError(
                f"{place}: expect is no JSON schema: {said}",
                hint='"expect": {"type": "object", "required": ["name"]}',
            ) from error


def _valid(text: str, value: Any, who: str) -> bool:  # noqa: ANN401 - JSON
    schema = json.loads(text)
    validator = validator_for(schema)(schema, registry=Registry())
    try:
        return bool(validator.is_valid(value))
    except (Unresolvable, RecursionError) as error:
        raise EvidenceError(
            f"prompt {who}: the schema refers to what is not in it: {error}",
            hint="put all definitions into the schema itself, under $defs",
        ) from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


SCORER: Final = Scorer(score=score, check=check)
