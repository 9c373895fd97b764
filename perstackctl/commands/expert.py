"""perstackctl expert: what a perstack.toml says, and how to begin one."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perstackctl.client.errors import InvalidError
from perstackctl.client.resolution import Finding, Resolution, Severity
from perstackctl.columns import fitted, wrapped
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, document, note, plain, say
from perstackctl.request.definition import DefinitionFile, load, located, shown_path
from perstackctl.request.environment import STORED, EnvFile, Found, env_files, look_up
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_CONFIG = click.option(
    "--config", metavar="PATH", default="", help="The perstack.toml.  [default: the nearest one, from here upwards]"
)
_VALIDATE = """\b
Examples:
  perstackctl expert validate
  perstackctl expert validate --strict --config team/perstack.toml
  perstackctl expert validate -o json | jq -r '.findings[].message'
"""
_SHOW = """\b
Examples:
  perstackctl expert show
  perstackctl expert show fitness-assistant
  perstackctl expert show reporter -o json | jq .requiredEnv
"""
_NEW = """\b
Examples:
  perstackctl expert new release-notes
  perstackctl expert new bug-finder --from team --dir bugs
  perstackctl expert new @acme/reporter --from skill
"""


@click.group(cls=Nouns)
def expert() -> None:
    """Experts: roles that a perstack.toml defines.

    The nearest perstack.toml counts, from here upwards to the first directory with a .git; --config names another.
    """


@expert.command(epilog=_VALIDATE, short_help="Check a perstack.toml.")
@_CONFIG
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@output_option
@address_option
@click.pass_context
def validate(ctx: click.Context, config: str, *, strict: bool, output: str) -> int:
    """Check a perstack.toml; all problems at once, each with its place.

    Ends with 0 when it can be run and with 1 when not; 2 when there is no file to read, 7 without a daemon.
    """
    file = load(config, Path.cwd())
    try:
        found = in_loop(_resolve(make_client(ctx), file))
    except InvalidError as error:  # of a daemon that does not know how to report errors
        if error.reason != "definition_invalid":
            raise
        return _invalid(file, error, output)
    broken = any(strict or finding.severity is Severity.ERROR for finding in found.findings)
    if output == JSON:
        document({"source": file.definition.source, "valid": not broken, **plain(found)})
    else:
        _show_findings(file, found.findings)
        _show_verdict(file, found, broken=broken)
    return 1 if broken else 0


@expert.command(epilog=_SHOW, short_help="Show an expert as a job would have it.")
@click.argument("key", metavar="[EXPERT]", required=False)
@_CONFIG
@click.option(
    "--env-path",
    metavar="PATH",
    multiple=True,
    help="A .env file to look into instead of the definition's. Repeatable.",
)
@output_option
@address_option
@click.pass_context
def show(ctx: click.Context, key: str | None, config: str, env_path: tuple[str, ...], output: str) -> int:
    """Show an expert as a job would have it: model, limits, skills, tools, delegates and required names.

    Of required names it tells the file that has a value, or that the daemon stores one, never the value. Without
    EXPERT: all experts of the file. Ends with 1 when the definition cannot be run.
    """
    from perstackctl.commands.expert_view import expert_document, say_expert, say_experts

    file = load(config, Path.cwd())
    found = in_loop(_resolve(make_client(ctx), file, key or ""))
    broken = any(finding.severity is Severity.ERROR for finding in found.findings)
    files = env_files(env_path, found.env_paths, Path.cwd(), file.directory)
    if broken and output != JSON:
        _show_findings(file, found.findings)
    elif output == JSON:
        values = _values(ctx, found, files)
        document({"source": file.definition.source, "valid": not broken, **expert_document(found, values, key or "")})
    elif key is None:
        say_experts(found)
    else:
        say_expert(found, _values(ctx, found, files), files, Path.cwd())
        if found.findings:
            note(f"{_counted(len(found.findings), 'warning')} about this file: perstackctl expert validate")
    return 1 if broken else 0


def _values(ctx: click.Context, found: Resolution, files: Sequence[EnvFile]) -> Found:
    """Where values of the required names are."""
    values = look_up(found.required_env, files, os.environ)
    if len(values.origins) == len(found.required_env):
        return values
    kept = in_loop(_stored(make_client(ctx)))
    stored = {name: STORED for name in found.required_env if name in kept}
    return replace(values, origins={**stored, **values.origins})


async def _stored(client: "Client") -> frozenset[str]:
    async with client:
        return await client.secrets.names()


@expert.command("new", epilog=_NEW, short_help="Begin an expert in a perstack.toml.")
@click.argument("name")
@click.option("--dir", "directory", metavar="PATH", default=".", help="Where; made when it is not there.  [default: .]")
@click.option(
    "--from",
    "kind",
    type=click.Choice(["minimal", "team", "skill"]),
    default="minimal",
    show_default=True,
    help="minimal: one expert. team: one with a delegate. skill: one with an MCP server, a secret and a host.",
)
def new_expert(name: str, directory: str, kind: str) -> None:
    """Begin an expert: writes a commented perstack.toml, or adds the expert to the one that is there.

    Nothing is ever overwritten. With --from skill a .gitignore keeps .env files out of the repository.
    """
    from perstackctl.request.skeleton import write

    path = Path.cwd() / directory
    for done in write(name, kind, path):
        say(done)
    here = "" if path.resolve() == Path.cwd() else f" --config {directory}/perstack.toml"
    say(f"\nNext: perstackctl expert validate{here}")
    say(f'      perstackctl run {name}{here} "What it shall do"')


async def _resolve(client: "Client", file: DefinitionFile, key: str = "") -> Resolution:
    async with client:
        return await client.resolve(file.definition, key, report_errors=True)


def _invalid(file: DefinitionFile, error: InvalidError, output: str) -> int:
    if output == JSON:
        shown: dict[str, Any] = {"source": file.definition.source, "valid": False}
        document({**shown, "reason": error.reason, "message": error.message})
    else:
        say(error.message)
    return 1


def _show_findings(file: DefinitionFile, findings: Sequence[Finding]) -> None:
    """One a line, for editors and grep; on a terminal lines end between words."""
    source = shown_path(file.path, Path.cwd())
    terminal = sys.stdout.isatty()
    for finding in findings:
        text = located(finding, source)
        say(wrapped(text, "  ", "") if terminal else line(text))


def _show_verdict(file: DefinitionFile, found: Resolution, *, broken: bool) -> None:
    if found.experts:
        if found.findings:
            say()
        rows = [(e.key, e.version or "-", len(e.skills), len(e.delegates), e.description or "-") for e in found.experts]
        say(fitted(("EXPERT", "VERSION", "SKILLS", "DELEGATES", "DESCRIPTION"), rows))
    if found.required_env:
        say(
            "\n"
            + wrapped(
                f"Required: {', '.join(found.required_env)}; looked for in the environment and in "
                f"{', '.join(found.env_paths)}"
            )
        )
    errors = sum(finding.severity is Severity.ERROR for finding in found.findings)
    counted = [_counted(errors, "error"), _counted(len(found.findings) - errors, "warning")]
    counts = ", ".join(filter(None, counted)) or "nothing to complain about"
    verdict = "cannot be run as it is" if errors else "does not pass --strict" if broken else "can be run"
    say(f"\n{shown_path(file.path, Path.cwd())} {verdict}: {counts}.")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else ""
