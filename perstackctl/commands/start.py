"""perstackctl start: asks for what is missing, then shows the job."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from perstackctl.client.errors import InvalidError
from perstackctl.client.resolution import ResolvedExpert
from perstackctl.commands.continuing import (
    Continuation,
    continue_options,
    continuing_query,
    file_or_here,
    take_continuation,
)
from perstackctl.commands.job_options import job_options, take_budgets
from perstackctl.commands.options import in_loop, make_client, reconnect_option, watch_output_option
from perstackctl.commands.run import RunOptions, execute
from perstackctl.output import say
from perstackctl.request.definition import DefinitionFile, load
from perstackctl.request.query import checked
from perstackctl.terminal import line

_EPILOG = """\b
Examples:
  perstackctl start
  perstackctl start fitness-assistant
  perstackctl start bot "Sort the open issues" --max-cost 0.50
  perstackctl start --config examples/tic-tac-toe/perstack.toml --workspace ephemeral
"""


@click.command(epilog=_EPILOG)
@click.argument("expert", required=False)
@click.argument("query", required=False)
@job_options
@continue_options
@watch_output_option
@reconnect_option
@click.pass_context
def start(ctx: click.Context, /, expert: str | None, query: str | None, reconnect: float, **options: Any) -> int:
    """Choose an expert, say what it shall do, and watch it. For people; programs use run.

    What the job asks is asked here, one question after the other: texts, approvals (y or n), and fields one by one.
    Ctrl-C at a question leaves it open and says how to answer it later; elsewhere it cancels the job.
    """
    if (continued := take_continuation(options)) is not None:
        named = expert if query is not None else None
        options |= {"continued": replace(continued, expert=named or ""), "budgets": take_budgets(options)}
        return in_loop(execute(make_client(ctx, reconnect), _going_on(query or expert, options)))
    file = load(options.pop("config"), Path.cwd())
    if (expert is None or query is None) and not sys.stdin.isatty():
        raise InvalidError(
            "start asks questions and standard input is not a terminal; use perstackctl run EXPERT QUERY",
            reason="not_a_terminal",
        )
    if expert is None:
        expert = _choose(in_loop(_experts(ctx, file)))
    if query is None:
        query = click.prompt("What shall it do", prompt_suffix="? ")
    chosen = RunOptions(file, expert, checked(query or ""), budgets=take_budgets(options), asks=True, **options)
    return in_loop(execute(make_client(ctx, reconnect), chosen))


def _going_on(query: str | None, options: dict[str, Any]) -> RunOptions:
    continued: Continuation = options["continued"]
    file = file_or_here(options.pop("config"), continued)
    if query is None and sys.stdin.isatty():
        query = click.prompt("What shall it do now (empty: go on)", default="", show_default=False, prompt_suffix="? ")
    return RunOptions(file, continued.expert, continuing_query(query or None), asks=True, **options)


async def _experts(ctx: click.Context, file: DefinitionFile) -> tuple[ResolvedExpert, ...]:
    async with make_client(ctx) as client:
        return (await client.resolve(file.definition)).experts


def _choose(experts: Sequence[ResolvedExpert]) -> str:
    """One of the experts; those that no other delegates to come first, because they are meant to be started."""
    delegates = {name.partition("@")[0] if not name.startswith("@") else name for e in experts for name in e.delegates}
    listed = sorted(experts, key=lambda expert: expert.key in delegates)
    if not listed:
        raise InvalidError("the definition has no expert; add a table [experts.NAME]", reason="definition_invalid")
    if len(listed) == 1:
        say(f"Expert: {listed[0].key}")
        return listed[0].key
    say("Experts:")
    for number, expert in enumerate(listed, 1):
        about = line(expert.description, 70)
        say(f"  {number}  {expert.key}{'  - ' + about if about else ''}")
    number = click.prompt("Which one", type=click.IntRange(1, len(listed)), default=1)
    return listed[number - 1].key
