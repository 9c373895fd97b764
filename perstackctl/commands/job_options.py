"""The options of `run` and `start`: what a job is made of."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from perstackctl.amounts import Length, Money
from perstackctl.client.values import Budgets
from perstackctl.commands.options import address_option

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option(
        "--config",
        metavar="PATH",
        default="",
        help="The perstack.toml.  [default: the nearest one, from here upwards]",
    ),
    click.option(
        "--workspace",
        metavar="PATH|NAME|ephemeral",
        default="",
        help="The directory that the job works in: a path (with a slash, or .) below one of the daemon's workspace "
        "roots, a workspace that the daemon keeps under a name, or one that goes with the job.  "
        "[default: the directory of perstack.toml]",
    ),
    click.option("--read-only", is_flag=True, help="The job may not change its workspace."),
    click.option(
        "--share", is_flag=True, help="Other jobs with --share may work in the named workspace at the same time."
    ),
    click.option(
        "--env-path",
        metavar="PATH",
        multiple=True,
        help="A .env file with required values, instead of those that perstack.toml names. Repeatable, later ones "
        "win; the environment wins over files.",
    ),
    click.option(
        "--allow-domain",
        metavar="HOST",
        multiple=True,
        help="A host that skills of this job may reach beside their own allowedDomains. Repeatable.",
    ),
    click.option("--model", default="", help="Instead of the definition's model."),
    click.option("--provider", default="", help="Instead of the definition's provider."),
    click.option(
        "--max-steps", metavar="N", type=click.IntRange(1, 2**32 - 1), help="The most steps, all runs together."
    ),
    click.option(
        "--max-time",
        metavar="TIME",
        type=Length(),
        help="The longest that it may take: 90 (seconds), 90s, 10m, 2h, 1h30m. Waits for people do not count.",
    ),
    click.option(
        "--max-tokens", metavar="N", type=click.IntRange(1, 2**63 - 1), help="The most tokens, input and output."
    ),
    click.option("--max-cost", metavar="DOLLARS", type=Money(), help="The most US dollars for its model, as in 0.50."),
    click.option("--max-tool-calls", metavar="N", type=click.IntRange(1, 2**32 - 1), help="The most calls of tools."),
    click.option("--tenant", default="", help="Whose job it is.  [default: default]"),
    click.option(
        "--idempotency-key",
        metavar="KEY",
        default="",
        help="1 to 128 characters. The same command with the same key returns the first job instead of making another "
        "one.  [default: a new one for each call]",
    ),
    address_option,
)


def job_options(function: Callable[P, R]) -> Callable[P, R]:
    """All of them, in the order of the help."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_budgets(options: dict[str, Any]) -> Budgets:
    """The limits among a command's options, which are taken out; --max-steps stays, as a number."""
    options["max_steps"] = options["max_steps"] or 0
    return Budgets(
        wall_clock_ms=options.pop("max_time") or 0,
        tokens=options.pop("max_tokens") or 0,
        microdollars=options.pop("max_cost") or 0,
        tool_calls=options.pop("max_tool_calls") or 0,
    )
