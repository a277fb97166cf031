"""``enginesmith compare``: two releases, two tools' results, or two running servers."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from builders.cli import ci, options, output, watch
from builders.errors import UsageError
from builders.pipeline import judging, servers
from builders.pipeline.judging import Judgement
from builders.pipeline.servers import Servers
from builders.pipeline.speed import Served, claim
from builders.pipeline.stages import Side


@click.command("compare")
@click.argument("baseline", metavar="A")
@click.argument("candidate", metavar="B")
@options.POLICY
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder with the servers' tokenizer.json and config.json: what cuts texts to be scored.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Name under which A is served, given again that of B [default: the only one].",
)
@click.option("--chat", is_flag=True, help="Ask servers as a chat where answers are generated.")
@click.option("--key-variable", metavar="NAME", help="Environment variable with the servers' key.")
@options.OUT
@options.JSON
@options.JUNIT
@click.pass_context
def command(
    ctx: click.Context,
    baseline: str,
    candidate: str,
    policy: Path | None,
    tokenizer: Path | None,
    models: tuple[str, ...],
    chat: bool,
    key_variable: str | None,
    out: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Say whether B is worse than A: bundles, evidence folders, other tools' results, or servers.

    Both must have answered the same items; pairs are compared, as a gate does. Two URLs of servers
    that speak OpenAI's API, http://host:port, are measured by the gates of --policy first; --out
    keeps that evidence. Nothing is promoted. Exits like gate.
    """
    urls = [servers.is_url(side) for side in (baseline, candidate)]
    with ci.gates(junit, candidate):
        if not any(urls):
            if out or tokenizer or models or key_variable or chat:
                raise UsageError(
                    "--out, --tokenizer, --model, --chat and --key-variable are for servers",
                    hint="A and B are then URLs such as http://127.0.0.1:8000",
                )
            found = judging.compare(Path(baseline), Path(candidate), policy)
        elif policy is None or not all(urls):
            raise UsageError(
                "two URLs and a policy are needed to compare servers",
                hint="enginesmith compare http://a:8000 http://b:8000 --policy POLICY.toml",
            )
        else:
            key = _key(key_variable)
            names = [*models[:2], *[""] * 2]
            named = (names[0], names[1] or names[0])
            sides = {
                side: Served(url=url, model=name, chat=chat, key=key)
                for side, url, name in zip(Side, (baseline, candidate), named, strict=True)
            }
            found = _measured(Servers(sides=sides, tokenizer=tokenizer), policy, out)
    ci.tell(found.report, None, junit)
    output.emit(output.as_json(found.as_json()) if as_json else output.judgement(found))
    ctx.exit(output.EXIT[found.report.outcome])


def _measured(both: Servers, policy: Path, out: Path | None) -> Judgement:
    with ExitStack() as stack:
        if out:
            claim(out)
            folder = out
        else:
            scratch = tempfile.TemporaryDirectory(prefix="enginesmith-")
            folder = Path(stack.enter_context(scratch))
        watcher = stack.enter_context(watch.terminal())
        return servers.compare(both, policy, folder, watcher.progress, watcher.say)


def _key(variable: str | None) -> str:
    found = os.environ.get(variable, "") if variable else ""
    if variable and not found:
        raise UsageError(
            f"the environment variable {variable} is empty", hint=f"export {variable}=…"
        )
    return found
