"""The YAML reads back as it was meant, whatever stands in it, and people can read it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builders.emit import render_yaml
from builders.errors import UsageError

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=("Cs",)))
)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda word: word.lower() not in {"true", "false", "yes", "no", "on", "off", "y", "n", "null",
                                      "nan"}
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(words, values, max_size=6))
def test_every_table_reads_back_as_it_was(table):
    assert (yaml.safe_load(render_yaml(table)) or {}) == table


@given(st.dictionaries(words, values, max_size=6))
def test_no_value_escapes_its_line_or_its_place(table):
    text = render_yaml(table)
    assert text.isascii()
    assert list(yaml.safe_load(text) or {}) == list(table)
    assert not set(text) & {"\t", "\r", "\x00"}


def test_it_looks_as_people_write_it():
    assert render_yaml(
        {
            "tensor_parallel_size": 2,
            "dtype": "auto",
            "trust_remote_code": False,
            "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9},
            "cuda_graph_config": {"batch_sizes": [1, 2, 4], "enable_padding": True},
            "lora_config": {"lora_dir": ["/adapters/one"]},
            "empty": {},
        }
    ) == (
        "tensor_parallel_size: 2\n"
        "dtype: auto\n"
        "trust_remote_code: false\n"
        "kv_cache_config:\n"
        "  dtype: fp8\n"
        "  free_gpu_memory_fraction: 0.9\n"
        "cuda_graph_config:\n"
        "  batch_sizes: [1, 2, 4]\n"
        "  enable_padding: true\n"
        "lora_config:\n"
        "  lora_dir: [/adapters/one]\n"
        "empty: {}\n"
    )


def test_a_long_list_takes_a_line_an_item():
    text = render_yaml({"batch_sizes": list(range(60))})
    assert text.splitlines()[1] == "  - 0"
    assert yaml.safe_load(text) == {"batch_sizes": list(range(60))}


@pytest.mark.parametrize(
    "word",
    ["no", "Yes", "on", "OFF", "null", "~", "1.5", "1e5", "0x10", "2026-11-23", "12:30", "", " a",
     "a b", "a: b", "a #b", "- a", "[a]", "{a}", "&a", "*a", "!a", "%a", "@a", "'a'", '"a"', "a\nb",
     "N", "nan", ".inf", "é", "😀", "a\u2028b", "=", "<<"],
)  # fmt: skip
def test_a_text_that_yaml_would_read_otherwise_stays_a_text(word):
    assert yaml.safe_load(render_yaml({"key": word, "keys": [word]})) == {
        "key": word,
        "keys": [word],
    }


@pytest.mark.parametrize(
    "table",
    [
        {"a b": 1},
        {"no": 1},
        {"a\nb: 1": 2},
        {"": 1},
        {"key": object()},
        {"key": float("nan")},
        {"key": float("inf")},
        {"key": b"bytes"},
        {"key": "\ud800"},
        {"key": {"a:b": 1}},
        {"key": [{"a b": 1}]},
        {"key": [{1: 1}]},
    ],
)
def test_what_is_no_yaml_is_refused(table):
    with pytest.raises(UsageError):
        render_yaml(table)
