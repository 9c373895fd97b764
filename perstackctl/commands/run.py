"""perstackctl run: make a job and stay with it to its end."""

import os
import sys
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perstackctl.client.resolution import Resolution
from perstackctl.client.values import Budgets, CreatedJob, Job, JobRequest, Workspace
from perstackctl.commands.continuing import (
    Continuation,
    continue_options,
    continuing_query,
    file_or_here,
    inputs,
    parent_of,
    take_continuation,
)
from perstackctl.commands.job_options import job_options, take_budgets
from perstackctl.commands.options import in_loop, make_client, reconnect_option, watch_output_option
from perstackctl.output import JSON, document, note, say
from perstackctl.request.definition import DefinitionFile, load, located
from perstackctl.request.environment import collect, env_files
from perstackctl.request.query import read_query
from perstackctl.request.workspace import choose, shared

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.questions.desk import Desk
    from perstackctl.watch.interrupts import Interrupts
    from perstackctl.watch.painter import Painter

_EPILOG = """\b
Examples:
  perstackctl run fitness-assistant "Start today's session"
  git diff | perstackctl run reviewer -o text
  perstackctl run reporter "Weekly numbers" --workspace reports --env-path ci.env
  perstackctl run migrator "Port src/ to 3.12" --max-cost 2.50 --max-time 30m --max-tool-calls 200
  perstackctl run fitness-assistant "And tomorrow?" --continue
  perstackctl run "Try it without the cache" --resume-from 01JD3Z:42
  ID=$(perstackctl run bug-finder "Look at src/" --detach); perstackctl job watch "$ID"

\b
Exit codes:
  0 completed   1 failed   2 usage   3 stopped by a limit   4 waits for an answer
  5 cancelled   6 refused (quota, rights)   7 daemon unreachable   130 left with Ctrl-C

A job that waits for an answer goes on waiting; the last message has the command that answers. perstackctl start asks
on the terminal instead.
"""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a job is made of and how it is shown. `asks`: its questions are put to whoever sits at the terminal."""

    file: DefinitionFile
    expert: str
    query: str
    workspace: str = ""
    read_only: bool = False
    share: bool = False
    env_path: tuple[str, ...] = ()
    allow_domain: tuple[str, ...] = ()
    model: str = ""
    provider: str = ""
    max_steps: int = 0
    budgets: Budgets = field(default_factory=Budgets)
    tenant: str = ""
    idempotency_key: str = ""
    output: str | None = None
    stream: bool = False
    detach: bool = False
    asks: bool = False
    continued: Continuation | None = None


@click.command(epilog=_EPILOG)
@click.argument("expert", required=False)
@click.argument("query", required=False)
@job_options
@continue_options
@watch_output_option
@click.option("--stream", is_flag=True, help="With JSON lines: also the pieces of text as they arrive.")
@click.option("--detach", is_flag=True, help="Print the job's id and leave; the job goes on.")
@reconnect_option
@click.pass_context
def run(
    ctx: click.Context, /, expert: str | None, query: str | None, config: str, reconnect: float, **options: Any
) -> int:
    """Run EXPERT of the nearest perstack.toml with QUERY and wait for its end.

    QUERY is read from standard input when it is - or missing and something is piped in. Ctrl-C cancels the job and
    waits for its end; a second Ctrl-C leaves at once.

    Values for the names that the expert's skills require are taken from the environment and from .env files; only
    those names are sent, and the daemon seals them. What is found in neither may be stored (perstackctl secret put).

    With --continue, --continue-job or --resume-from the new job goes on with the history, the definition, the model and
    the workspace of an earlier one; a single argument is then QUERY, which may be missing where something is to be
    answered.
    """
    if (continued := take_continuation(options)) is not None:
        expert, query = (expert, query) if query is not None else (None, expert)
        continued = replace(continued, expert=expert or "")
        options |= {"continued": continued, "budgets": take_budgets(options)}
        chosen = RunOptions(file_or_here(config, continued), expert or "", continuing_query(query), **options)
        return in_loop(execute(make_client(ctx, reconnect), chosen))
    if expert is None:
        raise click.UsageError("Missing argument 'EXPERT'.", ctx)
    file = load(config, Path.cwd())
    chosen = RunOptions(file, expert, read_query(query), budgets=take_budgets(options), **options)
    return in_loop(execute(make_client(ctx, reconnect), chosen))


async def execute(client: "Client", options: RunOptions) -> int:
    """Make the job and follow it; returns the exit code."""
    from perstackctl.watch.interrupts import Interrupts

    with Interrupts() as interrupts:
        async with client:
            request = await _request(client, options)
            interrupts.arm()
            if options.detach:
                created = await client.create_job(request)
                _warn(created, request)
                _detached(created.job, options.output)
                return 0
            return await _follow(client, request, options, interrupts)


def _local(options: RunOptions, needs: Resolution, stored: frozenset[str]) -> tuple[dict[str, str], Workspace]:
    """What is read from the caller's disk; blocks. The daemon has values of the `stored` names."""
    cwd, directory = Path.cwd(), options.file.directory
    files = env_files(options.env_path, needs.env_paths, cwd, directory)
    env = collect(needs.required_env, files, os.environ, stored)
    return env, choose(options.workspace, directory, cwd, read_only=options.read_only)


async def _request(client: "Client", options: RunOptions) -> JobRequest:
    import asyncio

    file, parent = options.file, None
    if options.continued is not None:
        parent = await parent_of(client, options.continued, file, same_workspace=not options.workspace)
        chosen = (options.env_path, options.workspace, options.read_only)
        env, workspace = await inputs(client, parent, file, chosen, options.tenant)
    else:
        needs = await client.resolve(file.definition, options.expert)
        stored = await client.secrets.names(options.tenant) if needs.required_env else frozenset[str]()
        env, workspace = await asyncio.to_thread(_local, options, needs, stored)
    return JobRequest(
        definition=file.definition,
        expert_key=options.expert,
        query=options.query,
        workspace=shared(workspace) if options.share else workspace,
        tenant=options.tenant,
        idempotency_key=options.idempotency_key or f"perstackctl-{uuid.uuid4()}",
        env=env,
        allow_domains=options.allow_domain,
        max_steps=options.max_steps,
        model=options.model,
        provider=options.provider,
        budgets=options.budgets,
        parent=parent,
    )


def _detached(job: Job, output: str | None) -> None:
    if output == JSON:
        document(job)
    else:
        say(job.id)


def _warn(created: CreatedJob, request: JobRequest) -> None:
    for finding in created.warnings:
        note(located(finding, request.definition.source))


async def _follow(client: "Client", request: JobRequest, options: RunOptions, interrupts: "Interrupts") -> int:
    from perstackctl.watch.choice import painter, streams
    from perstackctl.watch.follow import Follower

    running = await client.run_job(request, include_streaming=streams(options.output, wanted=options.stream))
    job = running.created.job
    interrupts.name_job(job.id)
    _warn(running.created, request)
    display = painter(options.output)
    desk = _desk(client, job, options, display, interrupts)
    return await Follower(client, job.id, display, running=running, interrupts=interrupts, desk=desk).run()


def _desk(
    client: "Client", job: Job, options: RunOptions, display: "Painter", interrupts: "Interrupts"
) -> "Desk | None":
    if not options.asks or options.output == JSON or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    from perstackctl.questions.desk import Desk
    from perstackctl.questions.terminal import Terminal
    from perstackctl.watch.follow import answer_command

    return Desk(client, job.id, Terminal(interrupts.divert), display, answer_command(client.path, job.id))
