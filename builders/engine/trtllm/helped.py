"""Compares what TensorRT-LLM's programs say of themselves with what we believe of them.

Run once in each new image: ``python3 -m builders.engine.trtllm.helped``. Exits 10 when a program
does not know an option that we may write, and 4 when TensorRT-LLM is not there.
"""

import re
import sys
from importlib import metadata

from builders import process
from builders.engine.trtllm.contract import TOOLS, Command, read
from builders.errors import BuildersError

_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def unknown(command: Command, text: str) -> tuple[str, ...]:
    """Return the options that no spelling of is in a program's help."""
    shown = set(_FLAG.findall(text))
    return tuple(one.flags[0] for one in command.options if not shown & set(one.flags))


def differences(tool: str, version: str) -> tuple[str, ...]:
    """Ask a program and each of its subcommands for its help; say what it does not know."""
    known = read(tool, version)
    if known is None:
        return ()
    found = [(tool, unknown(known.top, _help(tool)))]
    found += [
        (f"{tool} {name}", unknown(command, _help(tool, name)))
        for name, command in known.commands.items()
    ]
    return tuple(f"{what} does not know {flag}" for what, flags in found for flag in flags)


def _help(*words: str) -> str:
    return process.output([*words, "--help"], seconds=300)


def main() -> int:
    """Compare every program of the installed version."""
    try:
        version = metadata.version("tensorrt_llm")
        found = [line for tool in TOOLS for line in differences(tool, version)]
    except (metadata.PackageNotFoundError, BuildersError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 4
    sys.stdout.write("\n".join(found or [f"TensorRT-LLM {version} knows every option we write"]))
    sys.stdout.write("\n")
    return 10 if found else 0


if __name__ == "__main__":
    sys.exit(main())
