"""perstackctl sandbox: the containers that live, and what the kernel says about them."""

from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.values import Pool, Posture, PostureCheck, Sandbox
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import ID_LENGTH, address_option, in_loop, make_client, output_option
from perstackctl.commands.pool import standing_still
from perstackctl.fitted import WIDE, Column, fitted, room
from perstackctl.output import JSON, age, document, pairs, rfc3339, say
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_VALUE_WIDTH: Final = 60
_COLUMNS: Final = (
    Column("ID"),
    Column("TEMPLATE", least=8),
    Column("STATE"),
    Column("UID", right=True, misses=2),
    Column("RUNTIME", misses=3),
    Column("CONTAINER", misses=1),
    Column("JOB"),
    Column("AGE"),
)

_CHECKS: Final = (
    Column("OK"),
    Column("CHECK"),
    Column("ACTUAL", least=20),
    Column("CIS", misses=1),
    Column("SOURCE", misses=2),
)


@click.group(cls=Nouns)
def sandbox() -> None:
    """Sandboxes: containers that were started for one run each. The pool alone makes and removes them.

    SANDBOX is a full id, or its beginning when no other sandbox begins so.
    """


@sandbox.command("ls", epilog="\b\nExample:\n  perstackctl sandbox ls -o json")
@click.option("--tenant", default="", help="Only those that run something of this tenant.")
@output_option
@address_option
@click.pass_context
def list_sandboxes(ctx: click.Context, tenant: str, output: str) -> None:
    """List the sandboxes that live, oldest first, what resists its removal, and why no more are made.

    A narrow terminal gets fewer columns.
    """
    found, pools = in_loop(_list(make_client(ctx), tenant))
    if output == JSON:
        document(found)
        return
    rows = [
        (s.id, s.template, s.state, s.uid, s.runtime, s.container_id[:12] or "-", s.job_id or "-", age(s.created_at))
        for s in found
    ]
    say(fitted(_COLUMNS, rows, room() or WIDE))
    for each in found:
        if each.problems:
            say(f"\n{_resists(each)}")
    for told in standing_still(pools):
        say(f"\n{told}")


async def _list(client: "Client", tenant: str) -> tuple[tuple[Sandbox, ...], tuple[Pool, ...]]:
    async with client:
        return await client.list_sandboxes(tenant), await client.pools()


@sandbox.command(epilog="\b\nExample:\n  perstackctl sandbox get 01JD3Z")
@click.argument("sandbox_id", metavar="SANDBOX")
@output_option
@address_option
@click.pass_context
def get(ctx: click.Context, sandbox_id: str, output: str) -> None:
    """Show one sandbox."""
    found = in_loop(_get(make_client(ctx), sandbox_id))
    if output == JSON:
        document(found)
        return
    if found.problems:
        say(_resists(found))
    say(
        pairs(
            [
                ("Sandbox", found.id),
                ("State", found.state),
                ("Template", found.template),
                ("Runtime", found.runtime),
                ("Container", found.container_id),
                ("Image", found.image_id),
                ("Uid", found.uid),
                ("Tenant", found.tenant),
                ("Job", found.job_id),
                ("Run", found.run_id),
                ("Fence", found.fence if found.run_id else ""),
                ("Created", f"{rfc3339(found.created_at)} ({age(found.created_at)} ago)"),
                ("Claimed", f"{rfc3339(found.claimed_at)} ({age(found.claimed_at)} ago)" if found.claimed_at else ""),
            ]
        )
    )


def _resists(found: Sandbox) -> str:
    return f"{found.id} resists its removal, which is tried again: {line('; '.join(found.problems))}"


async def _get(client: "Client", sandbox_id: str) -> Sandbox:
    async with client:
        return await client.get_sandbox(sandbox_id.upper())


@sandbox.command(epilog="\b\nExample:\n  perstackctl sandbox posture 01JD3Z || echo 'not as its template asks'")
@click.argument("sandbox_id", metavar="SANDBOX")
@output_option
@address_option
@click.pass_context
def posture(ctx: click.Context, sandbox_id: str, output: str) -> int:
    """Compare what the kernel says about a sandbox with what its template asks for.

    CIS numbers are those of section 5 of the CIS Docker Benchmark. Ends with 1 when something differs.
    """
    found = in_loop(_posture(make_client(ctx), sandbox_id))
    if output == JSON:
        document(found)
    else:
        _show(found)
    return 0 if found.ok else 1


async def _posture(client: "Client", given: str) -> Posture:
    async with client:
        sandbox_id = given.upper()
        if len(sandbox_id) < ID_LENGTH:
            sandbox_id = (await client.get_sandbox(sandbox_id)).id
        return await client.posture(sandbox_id)


def _show(found: Posture) -> None:
    """Long values are cut in the table; what differs is told in full below it, and -o json has everything."""
    rows = [
        (_verdict(c, found.exceptions), c.name, line(c.actual, _VALUE_WIDTH) or "-", c.cis or "-", c.source or "-")
        for c in found.checks
    ]
    say(fitted(_CHECKS, rows, room() or WIDE))
    differing = [check for check in found.checks if not check.ok]
    for check in differing:
        say(f"\n{check.name} differs\n  expected: {line(check.expected)}\n  actual:   {line(check.actual)}")
    for check in found.checks:
        if _excepted(check, found.exceptions):
            say(f"\n{check.name} is loosened, CIS {check.cis or '-'}: {line(check.expected)}")
    exceptions = ", ".join(found.exceptions) or "none"
    verdict = "as its template asks" if found.ok else f"{len(differing)} of {len(found.checks)} checks differ"
    say(f"\nSandbox {found.sandbox_id}: {verdict}. Exceptions of the template: {exceptions}.")


def _verdict(check: PostureCheck, exceptions: tuple[str, ...]) -> str:
    if not check.ok:
        return "DIFFERS"
    return "excepted" if _excepted(check, exceptions) else "ok"


def _excepted(check: PostureCheck, exceptions: tuple[str, ...]) -> bool:
    return any(check.expected.endswith(f"(exception {name})") for name in exceptions)
