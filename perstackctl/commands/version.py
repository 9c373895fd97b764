"""perstackctl version."""

import click

from perstackctl.commands.options import output_option
from perstackctl.output import JSON, document, say


def installed() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import version as of

    return of("perstackd")


@click.command()
@output_option
def version(output: str) -> None:
    """Show the version of perstackctl. The daemon's is in perstackctl system info."""
    if output == JSON:
        document({"version": installed()})
    else:
        say(f"perstackctl {installed()}")
