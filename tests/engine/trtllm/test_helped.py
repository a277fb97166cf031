"""What programs say of themselves is held against what we believe of them."""

import pytest

from builders import process
from builders.engine.trtllm import helped
from builders.engine.trtllm.contract import TOOLS, read


def helps(program):
    """Write a help text as argparse or click would, from the contract itself."""
    known = read(program, "1.2.1")
    return {
        name: "\n".join(f"  {', '.join(one.flags)} VALUE  words-with--dashes" for one in c.options)
        for name, c in {"": known.top, **known.commands}.items()
    }


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(helped.metadata, "version", lambda name: "1.2.1")
    said = {tool: helps(tool) for tool in TOOLS if read(tool, "1.2.1")}
    monkeypatch.setattr(
        process, "output",
        lambda words, seconds: said[words[0]][words[1] if len(words) == 3 else ""],
    )  # fmt: skip
    return said


def test_programs_that_know_every_option_pass(installed, capsys):
    assert helped.main() == 0
    assert "1.2.1 knows every option" in capsys.readouterr().out


def test_an_option_that_is_gone_is_named(installed, capsys):
    build = installed["trtllm-build"]
    build[""] = build[""].replace("--max_num_tokens", "--max_tokens")
    assert helped.main() == 10
    assert capsys.readouterr().out == "trtllm-build does not know --max_num_tokens\n"


def test_a_machine_without_tensorrt_llm_says_so(capsys):
    assert helped.main() == 4
    assert "tensorrt_llm" in capsys.readouterr().err
