"""``enginesmith serve``: a promoted release on a real Triton."""

import time
from pathlib import Path

import click

from builders.cli import options, output, watch
from builders.errors import ToolError
from builders.pipeline import shelf
from builders.process import tail


@click.command("serve")
@click.argument("release", metavar="CHANNEL|DIGEST")
@options.STORE
@options.KEY
@click.option("--http-port", type=int, default=8000, show_default=True, help="0: any free one.")
@click.option("--grpc-port", type=int, default=8001, show_default=True, help="0: any free one.")
@click.option("--log", type=click.Path(path_type=Path), help="Where the server's log goes.")
def command(
    release: str,
    store: Path | None,
    key: Path | None,
    http_port: int,
    grpc_port: int,
    log: Path | None,
) -> None:
    """Serve a release on a real Triton at loopback until Ctrl-C.

    The release is verified first. Prints a curl line and a tritonclient line to try.
    """
    written = log or options.home().runs / "serve.log"
    opened = options.shelf(store, key)
    ports = {"http_port": http_port, "grpc_port": grpc_port}
    with watch.terminal() as watcher:
        watcher.say(f"verifying {release}, then starting Triton (log: {written})")
        with shelf.served(opened, release, log=written, **ports) as (server, model):
            output.emit(output.to_try(server.http_url, server.grpc_url, model))
            watcher.say("serving; Ctrl-C ends it")
            while server.alive():
                time.sleep(0.5)
            raise ToolError(f"tritonserver ended:\n{tail(written)}", hint=f"see {written}")
