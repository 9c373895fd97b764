"""Options that several commands share, and the way from a command into the event loop."""

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from perstackctl.client.errors import InvalidError
from perstackctl.output import JSON, TABLE, TEXT

if TYPE_CHECKING:
    from perstackctl.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
ID_LENGTH: Final = 26
SHORTEST_PREFIX: Final = 6
ADDRESS_HELP: Final = (
    "The daemon's socket: unix:PATH or a path.  [env: PERSTACK_ADDRESS; default: /run/perstackd/perstackd.sock]"
)
_ADDRESS: Final = "perstackctl.address"


def remember_address(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """The address may be given before or after the command; the one nearest to the command counts."""
    if value is not None:
        ctx.meta[_ADDRESS] = value


def address_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--address` on a command itself."""
    return click.option(
        "--address",
        metavar="ADDRESS",
        expose_value=False,
        callback=remember_address,
        help=ADDRESS_HELP,
    )(function)


def output_option(function: Callable[P, R]) -> Callable[P, R]:
    """`-o table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([TABLE, JSON]),
        default=TABLE,
        show_default=True,
        help="For people, or for programs.",
    )(function)


def watch_output_option(function: Callable[P, R]) -> Callable[P, R]:
    """`-o json|table|text` of commands that watch a job."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([JSON, TABLE, TEXT]),
        help="json: one event a line. text: a readable log. table: the runs, at the end.  "
        "[default: a live view on a terminal, json on a pipe]",
    )(function)


def reconnect_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--reconnect`."""
    return click.option(
        "--reconnect",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=10.0,
        show_default=True,
        help="How long to wait for a daemon that went away while watching.",
    )(function)


def make_client(ctx: click.Context, reconnect: float = 10.0) -> "Client":
    """A client of the daemon that the caller means; not open yet."""
    from perstackctl.client.client import Client

    return Client(ctx.meta.get(_ADDRESS, ""), reconnect_seconds=reconnect)


def in_loop(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a command's coroutine."""
    import asyncio

    return asyncio.run(coroutine)


async def full_job_id(client: "Client", given: str) -> str:
    """The id of the job that `given` means: a full id, or a prefix of at least 6 characters that one job has.

    Raises:
        InvalidError: too short, or several jobs have it. NotFoundError is left to the daemon.
    """
    wanted = given.upper()
    if len(wanted) >= ID_LENGTH:
        return wanted
    if len(wanted) < SHORTEST_PREFIX:
        raise InvalidError(
            f"{given!r} is too short for a job id; give at least {SHORTEST_PREFIX} characters (perstackctl job ls)",
            reason="id_too_short",
        )
    found = await _beginning_with(client, wanted)
    match found:
        case []:
            return wanted
        case [only]:
            return only
        case _:
            shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
            raise InvalidError(
                f"{len(found)} jobs begin with {given!r}: {shown}; give more of it", reason="id_ambiguous"
            )


async def _beginning_with(client: "Client", prefix: str) -> list[str]:
    found: list[str] = []
    async with aclosing(client.list_jobs(page_size=1000)) as jobs:
        async for job in jobs:
            if job.id.startswith(prefix):
                found.append(job.id)
            elif job.id < prefix:
                break  # newest first, and ids are ordered by time: older ones cannot begin so
    return found
