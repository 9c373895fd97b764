"""perstackctl egress: where sandboxes may connect to, and why not."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.egress import EgressVerdict
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, document, say
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.client.values import Definition

_EXAMPLES = """\b
Examples:
  perstackctl egress explain api.example.com
  perstackctl egress explain api.example.com:8443 --expert reporter --config team/perstack.toml
  perstackctl egress explain api.example.com --sandbox 01JD40 -o json | jq -r '.verdicts[].reason'
"""
_WITH_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})")


@click.group(cls=Nouns)
def egress() -> None:
    """Connections out of sandboxes."""


@egress.command(epilog=_EXAMPLES, short_help="Say whether a host can be reached, and why not.")
@click.argument("target", metavar="HOST[:PORT]")
@click.option("--expert", "expert_key", metavar="KEY", default="", help="One expert of the file.  [default: all]")
@click.option(
    "--config", metavar="PATH", default="", help="The perstack.toml.  [default: the nearest one, from here upwards]"
)
@click.option("--allow-domain", metavar="HOST", multiple=True, help="As for run. Repeatable.")
@click.option("--sandbox", "sandbox_id", metavar="ID", default="", help="A sandbox that lives, instead of a file.")
@output_option
@address_option
@click.pass_context
def explain(
    ctx: click.Context,
    target: str,
    *,
    expert_key: str,
    config: str,
    allow_domain: tuple[str, ...],
    sandbox_id: str,
    output: str,
) -> int:
    """The dry run of a connection: which rule allows it or why it is denied, where the name leads, what to change.

    The proxy itself answers, by the rules that it goes by; nothing is dialled. Of a perstack.toml each sandbox that a
    job would have is asked about: the expert's own, and those of skills that have one. Ends with 0 when the host can be
    reached from one of them, else with 1.
    """
    if sandbox_id and (expert_key or config or allow_domain):
        raise click.UsageError("--sandbox has its rules already: leave --expert, --config and --allow-domain out")
    host, port = _split(target)
    definition = None if sandbox_id else _definition(config)
    question = (host, port, sandbox_id, definition, expert_key, allow_domain)
    verdicts = in_loop(_explain(make_client(ctx), question))
    if output == JSON:
        document({"host": host, "port": port, "verdicts": verdicts})
    else:
        for verdict in verdicts:
            _show(verdict)
    return 0 if any(verdict.allowed for verdict in verdicts) else 1


def _split(target: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPV6], [IPV6]:PORT; anything else is the daemon's to refuse."""
    found = _WITH_PORT.fullmatch(target)
    if found is None:
        return target, 443
    port = int(found[2])
    if not 1 <= port <= 65535:
        raise click.UsageError(f"{port} is not a port")
    return found[1], port


def _definition(config: str) -> "Definition":
    from perstackctl.request.definition import load

    return load(config, Path.cwd()).definition


_Question = tuple[str, int, str, "Definition | None", str, tuple[str, ...]]


async def _explain(client: "Client", question: _Question) -> tuple[EgressVerdict, ...]:
    host, port, sandbox_id, definition, expert_key, allow_domains = question
    async with client:
        return await client.explain_egress(
            host, port, sandbox_id=sandbox_id, definition=definition, expert_key=expert_key, allow_domains=allow_domains
        )


def _show(verdict: EgressVerdict) -> None:
    where = f"sandbox {verdict.sandbox_id}" if verdict.sandbox_id else f"expert {verdict.expert_key}"
    where += f", skill {verdict.skill}" if verdict.skill else ""
    word = "allowed" if verdict.allowed else "denied"
    say(f"{line(verdict.host)}:{verdict.port} from {line(where)}: {word}")
    if verdict.rule:
        say(f"  rule      {line(verdict.rule)}")
    if verdict.reason:
        say(f"  reason    {line(verdict.detail)} ({line(verdict.reason)})")
    for address in verdict.addresses:
        say(f"  address   {line(address.address)}  {line(address.refused) or 'would be dialled'}")
    for text in verdict.remedy.splitlines():
        say(f"  remedy    {line(text)}")
