"""The command line: the only room that knows Click, and the only one that knows a terminal."""

import keyword
import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType
from typing import Final, NoReturn

import click

from builders.errors import BuildersError

COMMANDS: Final = {
    "release": "Carry a checkpoint to a promoted release: every stage below, in order.",
    "plan": "Resolve release.toml and say whether it can work, before any work.",
    "quantize": "Quantize the checkpoint by the recipe.",
    "build": "Build the engine that the runtime loads.",
    "render": "Render the Triton model repository.",
    "gate": "Judge the candidate against its baseline.",
    "judge": "Judge again, offline, what was measured before; read other tools' results.",
    "compare": "Judge one release, one tool's results or one running server against another's.",
    "latency": "Judge two servers by URL: is the second as fast as the first?",
    "time": "Time an engine in this process: prefill, decoding, tokens a second.",
    "promote": "Promote what the gates let through.",
    "serve": "Serve a promoted release on a real Triton at loopback.",
    "show": "Show what a release is made of, and its verdicts.",
    "verify": "Verify a release's signature and every byte of it.",
    "history": "List what a channel pointed to, newest first.",
    "rollback": "Point a channel back to an earlier release.",
    "keygen": "Make the key that signs releases.",
    "adopt": "Read an engine that others compiled, and lay out a repository for it.",
    "lint": "Examine a Triton model repository: would it load, and would it stream?",
    "inspect": "Examine a checkpoint tensor by tensor: does it hold what it declares?",
    "import": "Recognize a pre-quantized checkpoint and print its part of a release.toml.",
    "sensitivity": "Measure what each layer costs in each format.",
    "calibrate": "Pick calibration texts from what a service is really asked.",
    "recipes": "List the recipes, and what each is good for.",
    "tiers": "List the GPU tiers: what each multiplies, and the recipes it takes.",
    "matrix-of-support": "Say what works: tier, recipe, runtime, version, and why not.",
    "recommend": "Recommend a recipe for a checkpoint and a tier, and say why.",
    "cache": "Say what the store would reuse, and why not.",
    "env": "Make, list or remove the environments that some quantizers and vLLM need.",
    "doctor": "Say what is installed, what is missing, and the line that mends it.",
}


class Terminated(BaseException):
    """SIGTERM arrived: unwind like an interrupt, so that nothing is left behind."""


STOPPED: Final[dict[type[BaseException], int]] = {
    KeyboardInterrupt: 130,
    click.Abort: 130,
    Terminated: 143,
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        command: click.Command = import_module(f"{__name__}.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from builders.parse import nearest  # noqa: PLC0415 - only for a mistyped command

            ctx.fail(f"no such command {args[0]!r}: {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enginesmith", prog_name="enginesmith")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Carry a Hugging Face checkpoint to a quantized, served, judged and promoted release.

    \b
    Start here:
      enginesmith plan demo/release.toml       what would be done, and whether it can work
      enginesmith release demo/release.toml    do it
      enginesmith serve cpu/stable             serve the promoted release

    Exit codes: 0 done and passed, 2 usage, 3 plan refused, 4 a tool failed, 5 could not be
    measured, 6 store or signature, 10 judged and failed, 11 judged and inconclusive,
    130 and 143 interrupted.
    """


def main() -> NoReturn:
    """Run the command line and exit with its documented code."""
    # Before torch is loaded, here or in a server: threads that spin while they wait make each
    # other 10 to 20 times slower on a machine that has other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command; every expected failure becomes one line on stderr and its exit code."""
    try:
        return int(group.main(args, prog_name="enginesmith", standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (BuildersError, click.ClickException) as error:
        _explain(error, debug="--debug" in args)
        return error.exit_code
    except tuple(STOPPED) as stop:
        click.echo("stopped; finished stages are kept: run the same command again", err=True)
        return STOPPED[type(stop)]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _explain(error: BuildersError | click.ClickException, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
        return
    click.echo(f"error: {error}" + (f"; {error.hint}" if error.hint else ""), err=True)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated
