"""``enginesmith keygen``: the key that signs releases."""

import click

from builders.cli import options, output
from builders.release import signing


@click.command("keygen")
@options.JSON
def command(as_json: bool) -> None:
    """Make an Ed25519 key that signs releases, and trust it here.

    The private key stays in .enginesmith/keys/signing.pem, readable by you alone; give its public
    half from .enginesmith/keys/trusted to those who verify. An existing key is never overwritten.
    """
    home = options.home()
    key_id = signing.keygen(home)
    facts = {"key": key_id, "private": str(home.signing_key), "trusted": str(home.trusted)}
    output.emit(output.as_json(facts) if as_json else output.facts(facts))
