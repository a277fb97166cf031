"""No value reaches a file unquoted, and no text leaves its quotes."""

import json

import jinja2
import pytest
import yaml
from google.protobuf import text_format
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from builders.errors import UsageError
from builders.render.environment import environment, quoted, whole

BREAKOUT = (
    'x" } }\nbackend: "python"\nparameters { key: "EXECUTION_ENV_PATH" value { string_value: "/m'
)


def fill(template, **values):
    return environment().from_string(template).render(values)


@given(st.text())
@example(BREAKOUT)
@example("a\\")
@example("\\\"'")
@example("\x00\x7f\u2028😀 ${HOME} {{ name }} # no comment")
def test_any_text_comes_back_as_it_was_and_nothing_beside_it(text):
    written = fill('name: {{ name | quoted }} platform: "p"', name=text)
    assert text_format.Parse(written, ModelConfig()) == ModelConfig(name=text, platform="p")


@given(st.text(), st.text())
def test_one_text_cannot_reach_into_the_next(first, second):
    template = "parameters { key: {{ a | quoted }} value { string_value: {{ b | quoted }} } }"
    message = text_format.Parse(fill(template, a=first, b=second), ModelConfig())
    assert {key: value.string_value for key, value in message.parameters.items()} == {first: second}


@given(st.text())
def test_what_is_written_is_one_line_of_printable_ascii_without_placeholders(text):
    written = quoted(text)
    assert written.isascii()
    assert written.isprintable()
    assert "${" not in written


@given(st.integers(-(2**31), 2**31 - 1))
def test_any_whole_number_comes_back(number):
    written = fill("max_batch_size: {{ number | whole }}", number=number)
    assert text_format.Parse(written, ModelConfig()).max_batch_size == number


@pytest.mark.parametrize("value", ['0 backend: "python"', 1.0, None, True, [1]])
def test_what_is_no_whole_number_is_not_written_as_one(value):
    with pytest.raises(TypeError, match="not a whole number"):
        whole(value)


@pytest.mark.parametrize("value", [1, None, b"x", ["x"]])
def test_what_is_no_text_is_not_written_as_text(value):
    with pytest.raises(TypeError, match="not text"):
        quoted(value)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UsageError, match="Unicode"):
        quoted("\ud800")


@pytest.mark.parametrize("template", ["{{ name }}", "{{ name ~ 'x' }}", "{{ 7 }}", "{{ none }}"])
def test_a_value_without_a_filter_is_refused(template):
    with pytest.raises(TypeError, match="without a filter"):
        fill(template, name="plain")


@pytest.mark.parametrize("template", ["{{ nmae }}", "{{ nmae | quoted }}", "{{ nmae | whole }}"])
def test_a_variable_that_is_not_in_the_context_is_refused(template):
    with pytest.raises(jinja2.UndefinedError, match="nmae"):
        fill(template, name="plain")


def test_an_undefined_condition_is_refused():
    with pytest.raises(jinja2.UndefinedError, match="nmae"):
        fill("{% if nmae %}x{% endif %}")


def test_no_filter_of_jinja_that_marks_text_as_safe_is_there():
    assert set(environment().filters) == {
        "quoted", "path", "whole", "switch", "number", "yaml", "members",
    }  # fmt: skip


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=("Cs",)))
)
KEYS = st.from_regex(r"[a-z][a-z_]{2,12}", fullmatch=True).filter(
    lambda key: key not in {"yes", "off", "null", "true", "false", "nan"}
)


@given(st.dictionaries(KEYS, VALUES | st.lists(VALUES, max_size=3), min_size=1))
def test_a_table_comes_back_from_yaml_as_it_was_and_nothing_beside_it(given_table):
    written = fill("first: 1\n{{ table | yaml }}\nlast: 2\n", table={"t": given_table})
    assert yaml.safe_load(written) == {"first": 1, "t": given_table, "last": 2}


@given(st.dictionaries(st.text(), VALUES | st.lists(VALUES, max_size=3)))
def test_the_members_of_an_object_come_back_from_json_as_they_were(given_table):
    written = fill('{"model": "m"{{ table | members }}\n}', table=given_table)
    assert json.loads(written) == {"model": "m"} | given_table


@pytest.mark.parametrize("template", ["{{ value | yaml }}", "{{ value | members }}"])
def test_what_is_no_table_is_not_written_as_one(template):
    with pytest.raises(TypeError, match="no table"):
        fill(template, value="a: 1")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: {2}}])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(UsageError, match="JSON"):
        fill("{{ table | members }}", table={"a": value})


@pytest.mark.parametrize("value", [1, "true", None])
def test_what_is_no_switch_is_not_written_as_one(value):
    with pytest.raises(TypeError, match="neither true nor false"):
        fill("{{ value | switch }}", value=value)


@pytest.mark.parametrize("value", ["0.5", True, 1, None])
def test_what_is_no_fraction_is_not_written_as_one(value):
    with pytest.raises(TypeError, match="no number"):
        fill("{{ value | number }}", value=value)


@pytest.mark.parametrize("value", ["../up", 'a"b', "", "a/b", 7])
def test_what_is_no_name_is_not_written_into_a_path(value):
    with pytest.raises(TypeError, match="no name"):
        fill("{{ value | path }}", value=value)
