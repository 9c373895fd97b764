"""perstackctl secret: values that the daemon keeps. They are read from standard input or asked for, never an argument:
arguments are shown by ps and kept by shells.
"""

import sys
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.errors import InvalidError
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, age, document, note, say, table
from perstackctl.standing import counted

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.client.secrets import NewSecret, RotatedKeys, StoredSecret

MAX_BYTES: Final = 64 << 10
_PUT_EPILOG: Final = """\b
Examples:
  perstackctl secret put GITHUB_TOKEN --expert github-issue-bot <token.txt
  pass show smtp | perstackctl secret put SMTP_PASSWORD
  perstackctl secret put --provider anthropic
  perstackctl secret put --route TRACKER_TOKEN <token.txt
"""
_ROTATE_EPILOG: Final = """\b
Examples:
  perstackctl secret rotate
  perstackctl secret rotate --master-key file:/etc/perstackd/master-2.key
"""
_ROUTE: Final = click.option(
    "--route", is_flag=True, help="A value for headers of the operator's origin routes: no expert gets it."
)


@click.group(cls=Nouns)
def secret() -> None:
    """Secrets that the daemon keeps: for experts that require them, keys of model providers, values of origin routes.

    No command shows a value: what is stored reaches the sandboxes of experts that require it, or the provider.
    """


@secret.command(epilog=_PUT_EPILOG, context_settings={"allow_extra_args": True})
@click.argument("name", required=False)
@click.option("--provider", metavar="PROVIDER", default="", help="The key of a model provider instead of NAME.")
@click.option(
    "--expert", "experts", metavar="KEY", multiple=True, help="Only this expert gets it. Repeatable.  [default: all]"
)
@click.option("--all-experts", is_flag=True, help="Take an earlier --expert back.")
@_ROUTE
@click.option("--tenant", default="", help="Whose secret.")
@output_option
@address_option
@click.pass_context
def put(
    ctx: click.Context,
    /,
    *,
    name: str | None,
    provider: str,
    experts: tuple[str, ...],
    all_experts: bool,
    route: bool,
    tenant: str,
    output: str,
) -> None:
    """Store a value under NAME, or replace it.

    The value is asked for on a terminal and read from standard input elsewhere, up to 64 KiB; one line end at its end
    is left out. NAME is that of requiredEnv: A-Z, 0-9 and _. A value that is sent with a job (environment, .env) comes
    before the stored one. Without --expert a new secret goes to all experts of the tenant, and one that is there keeps
    its grants.
    """
    from perstackctl.client.secrets import NewSecret

    if ctx.args:  # not shown again: it may be the value
        message = "a value is no argument, which ps and the shell's history would show: give it on standard input"
        raise click.UsageError(f"{message}, or leave it out to be asked; if this was one, change it at its issuer", ctx)
    named = _named(ctx, name, provider, route=route)
    new = NewSecret(named, _value(named), tenant, bool(provider), experts, all_experts, route)
    stored = in_loop(_put(make_client(ctx), new))
    if output == JSON:
        document(stored)
    else:
        say(f"{stored.name} is stored, for {_granted(stored)}")


@secret.command("ls", epilog="\b\nExample:\n  perstackctl secret ls -o json")
@click.option("--tenant", default="", help="Whose secrets.")
@output_option
@address_option
@click.pass_context
def list_secrets(ctx: click.Context, tenant: str, output: str) -> None:
    """List the secrets of a tenant, the keys of providers and values of routes: names and who gets them."""
    found = in_loop(_list(make_client(ctx), tenant))
    if output == JSON:
        document(found)
        return
    rows = [(each.name, _granted(each), age(each.updated_at)) for each in found]
    say(table(("NAME", "FOR", "AGE"), rows))


@secret.command(epilog="\b\nExample:\n  perstackctl secret rm GITHUB_TOKEN")
@click.argument("name", required=False)
@click.option("--provider", metavar="PROVIDER", default="", help="The key of a model provider instead of NAME.")
@_ROUTE
@click.option("--tenant", default="", help="Whose secret.")
@address_option
@click.pass_context
def rm(ctx: click.Context, name: str | None, provider: str, *, route: bool, tenant: str) -> None:
    """Delete a secret. Sandboxes that were given it keep it until they end: rotate it at its issuer as well."""
    named = _named(ctx, name, provider, route=route)
    removed = in_loop(_remove(make_client(ctx), named, tenant, provider=bool(provider), route=route))
    say(f"{removed.name} is deleted")


@secret.command(epilog=_ROTATE_EPILOG)
@click.option(
    "--master-key",
    metavar="SOURCE",
    default="",
    help="Change to the master key that is there: file:/PATH, systemd:NAME or keyring:SERVICE, as the daemon sees it.",
)
@output_option
@address_option
@click.pass_context
def rotate(ctx: click.Context, master_key: str, output: str) -> int:
    """Seal all that is stored anew, while jobs go on: with new data keys, or under another master key.

    After a change of the master key name it in perstackd.toml (secrets.master_key) before the daemon's next start. The
    old one is needed until this ends, and for as long as backups are kept that were made before. Ends with 1 when
    values of unfinished jobs could not be opened.
    """
    done = in_loop(_rotate(make_client(ctx), master_key))
    if output == JSON:
        document(done)
    else:
        anew = (counted(done.secrets, "secret"), counted(done.data_keys, "data key"))
        say(f"sealed anew: {', '.join(anew)}, values of {counted(done.jobs, 'job')}")
        say(f"master key: {done.master_key_id} ({done.master_key})")
    if master_key:
        note(f"set secrets.master_key = {done.master_key!r} in perstackd.toml before the daemon's next start")
    if done.unreadable:
        note(f"the values of {done.unreadable} unfinished jobs open with no key and were left as they are")
    return 1 if done.unreadable else 0


def _named(ctx: click.Context, name: str | None, provider: str, *, route: bool) -> str:
    if route and provider:
        raise click.UsageError("--route takes the NAME that a header of egress.routes names, and no --provider", ctx)
    if (name is None) == (not provider):
        raise click.UsageError("give NAME, or --provider PROVIDER", ctx)
    return name or provider


def _value(name: str) -> bytes:
    """From the terminal without an echo, twice; else all of standard input, without one line end at its end."""
    if sys.stdin.isatty():
        text: str = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
        return text.encode("utf-8", "surrogateescape")
    value = sys.stdin.buffer.read(MAX_BYTES + 3)
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value or len(value) > MAX_BYTES:
        what = "is empty" if not value else f"has more than {MAX_BYTES:,} bytes (64 KiB)"
        raise InvalidError(
            f"standard input, which should be the value of {name}, {what}", reason="secret_value_invalid"
        )
    return value


def _granted(secret: "StoredSecret") -> str:
    if secret.provider:
        return "the daemon's model calls"
    if secret.route:
        return "origin routes"
    return ", ".join(secret.experts) or "all experts"


async def _put(client: "Client", new: "NewSecret") -> "StoredSecret":
    async with client:
        return await client.secrets.put(new)


async def _list(client: "Client", tenant: str) -> "tuple[StoredSecret, ...]":
    async with client:
        secrets = client.secrets
        own, keys = await secrets.list(tenant), await secrets.list(providers=True)
        return (*own, *keys, *(each for each in await secrets.list(routes=True) if each.route))


async def _remove(client: "Client", name: str, tenant: str, *, provider: bool, route: bool) -> "StoredSecret":
    async with client:
        return await client.secrets.remove(name, tenant, provider=provider, route=route)


async def _rotate(client: "Client", master_key: str) -> "RotatedKeys":
    async with client:
        return await client.secrets.rotate(master_key)
