"""``enginesmith serve``: a promoted release on a real Triton, or by its runtime's own program."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from builders.cli import options, output, watch
from builders.errors import ToolError
from builders.pipeline import shelf
from builders.process import tail
from builders.serve.ports import HOST


@click.command("serve")
@click.argument("release", metavar="CHANNEL|DIGEST")
@options.STORE
@options.KEY
@click.option("--http-port", type=int, default=8000, show_default=True, help="0: any free one.")
@click.option("--grpc-port", type=int, default=8001, show_default=True, help="0: any free one.")
@click.option("--host", default=HOST, show_default=True, help="0.0.0.0 in a current Triton image.")
@click.option("--openai", is_flag=True, help="By trtllm-serve or vllm serve instead.")
@click.option("--log", type=click.Path(path_type=Path), help="Where the server's log goes.")
def command(
    release: str,
    store: Path | None,
    key: Path | None,
    log: Path | None,
    openai: bool,
    **where: Any,  # noqa: ANN401 - ports and host, passed on
) -> None:
    """Serve a release on a real Triton until Ctrl-C.

    The release is verified first, and its engine held against this machine. Prints a curl line and
    a tritonclient line to try; with --openai, the URL for clients of that protocol.
    """
    written = log or options.home().runs / "serve.log"
    opened = options.shelf(store, key)
    with watch.terminal() as watcher:
        what = "the runtime's own server" if openai else "Triton"
        watcher.say(f"verifying {release}, then starting {what} (log: {written})")
        if openai:
            port, host = where["http_port"], where["host"]
            with shelf.openai(opened, release, log=written, port=port, host=host) as speaking:
                output.emit(f"{speaking.url} serves {', '.join(speaking.models)}")
                _wait(speaking.alive, written, watcher.say)
        with shelf.served(opened, release, log=written, **where) as (server, model):
            output.emit(output.to_try(server.http_url, server.grpc_url, model))
            _wait(server.alive, written, watcher.say)


def _wait(alive: Callable[[], bool], log: Path, say: Callable[[str], None]) -> NoReturn:
    say("serving; Ctrl-C ends it")
    while alive():
        time.sleep(0.5)
    raise ToolError(f"the server ended:\n{tail(log)}", hint=f"see {log}")
