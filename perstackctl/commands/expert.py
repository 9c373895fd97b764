"""perstackctl expert: what a perstack.toml says."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import Definition, Resolution, Severity
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, document, plain, say, table
from perstackctl.request.definition import load, located
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.group()
def expert() -> None:
    """Experts: roles that a perstack.toml defines."""


@expert.command(epilog="\b\nExamples:\n  perstackctl expert validate\n  perstackctl expert validate --strict -o json")
@click.option("--config", metavar="PATH", default="", help="The perstack.toml.  [default: the nearest one upwards]")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@output_option
@address_option
@click.pass_context
def validate(ctx: click.Context, config: str, *, strict: bool, output: str) -> int:
    """Check a perstack.toml; all problems at once. Ends with 0 when it can be run, else with 1."""
    definition = load(config, Path.cwd()).definition
    try:
        found = in_loop(_resolve(make_client(ctx), definition))
    except InvalidError as error:
        if error.reason != "definition_invalid":
            raise
        return _invalid(definition, error, output)
    broken = any(f.severity is Severity.ERROR for f in found.findings) or (strict and bool(found.findings))
    if output == JSON:
        document({"source": definition.source, "valid": not broken, **plain(found)})
    else:
        _show(definition, found, broken=broken)
    return 1 if broken else 0


async def _resolve(client: "Client", definition: Definition) -> Resolution:
    async with client:
        return await client.resolve(definition)


def _invalid(definition: Definition, error: InvalidError, output: str) -> int:
    if output == JSON:
        document({"source": definition.source, "valid": False, "reason": error.reason, "message": error.message})
    else:
        say(error.message)
    return 1


def _show(definition: Definition, found: Resolution, *, broken: bool) -> None:
    for finding in found.findings:
        say(located(finding, definition.source))
    if found.findings:
        say()
    rows = [
        (e.key, e.version or "-", ", ".join(e.delegates) or "-", ", ".join(e.skills) or "-", line(e.description, 48))
        for e in found.experts
    ]
    say(table(("EXPERT", "VERSION", "DELEGATES", "SKILLS", "DESCRIPTION"), rows))
    if found.required_env:
        say(f"\nRequired: {', '.join(found.required_env)} (from the environment or {', '.join(found.env_paths)})")
    verdict = "cannot be run as it is" if broken else "can be run"
    say(f"\n{definition.source} {verdict}.")
