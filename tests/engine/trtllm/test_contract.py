"""The contracts are read whole: every file, every version that the matrix walks."""

from itertools import pairwise

import pytest

from builders import ledger
from builders.engine.trtllm import contract
from builders.engine.trtllm.contract import Span
from builders.errors import UsageError
from builders.ledger import Version


@pytest.mark.parametrize("tool", contract.TOOLS)
def test_every_read_names_its_source_and_its_versions(tool):
    for read in contract.reads(tool):
        assert read.source
        assert read.span.since
        assert read.top.options


@pytest.mark.parametrize("tool", contract.TOOLS)
def test_reads_of_a_program_follow_each_other_without_gap_or_overlap(tool):
    reads = contract.reads(tool)
    for earlier, later in pairwise(reads):
        assert earlier.span.before == later.span.since


def test_the_compiler_ends_where_the_ledger_ends_the_lane():
    for version in (*ledger.walked("trtllm"), "1.3.0rc20", "1.3.0rc21", "1.3.0"):
        known = contract.read("trtllm-build", version) is not None
        assert known == ("tensorrt" in ledger.lane("trtllm", version)), version


@pytest.mark.parametrize("tool", ["trtllm-serve", "trtllm-bench", "trtllm-eval"])
def test_the_other_programs_exist_wherever_the_llm_api_does(tool):
    for version in ledger.walked("trtllm"):
        known = contract.read(tool, version) is not None
        assert known == ("llmapi" in ledger.lane("trtllm", version)), version


def test_only_the_newest_serves_with_telemetry_switches():
    newest = contract.read("trtllm-serve", "1.4.0rc1")
    older = contract.read("trtllm-serve", "1.2.1")
    assert newest.top.option("--no-telemetry")
    assert older.top.option("--no-telemetry") is None


def test_an_option_is_found_by_each_of_its_spellings():
    read = contract.read("trtllm-serve", "1.4.0rc1")
    assert read.top.option("--config") is read.top.option("--extra_llm_api_options")


def test_no_spelling_belongs_to_two_options():
    for tool in contract.TOOLS:
        for read in contract.reads(tool):
            for command in (read.top, *read.commands.values()):
                assert len(set(command.flags)) == len(command.flags)


def test_every_table_that_a_key_names_is_there():
    known = contract.llm_args()
    for keys in known.tables.values():
        for key in keys.values():
            if key.kind.name.startswith("table:"):
                assert key.kind.name.removeprefix("table:") in known.tables


def test_a_retired_key_is_no_longer_a_key():
    known = contract.llm_args()
    assert not set(known.retired) & set(known.tables[""])


def test_a_span_says_what_it_spans():
    span = Span(since="1.3.0rc6", before="1.3.0rc29")
    assert not span.has(Version.parse("1.2.1"))
    assert span.has(Version.parse("1.3.0rc28"))
    assert not span.has(Version.parse("1.3.0rc29"))
    assert str(span) == "from 1.3.0rc6 on, before 1.3.0rc29"
    assert str(Span()) == "every version"


def test_an_unknown_program_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown program 'trtllm-bild'") as caught:
        contract.read("trtllm-bild", "1.2.1")
    assert caught.value.hint == "did you mean trtllm-build?"
