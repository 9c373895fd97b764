"""Going on from an earlier job: the options of `run` and `start`, and what they come to."""

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from perstackctl.client.errors import InvalidError, NotFoundError
from perstackctl.client.values import Definition, Parent, Workspace
from perstackctl.commands.options import full_job_id
from perstackctl.request.definition import DefinitionFile, load
from perstackctl.request.environment import collect, env_files
from perstackctl.request.query import checked, read_query
from perstackctl.request.workspace import choose

if TYPE_CHECKING:
    from perstackctl.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
_NEWEST: Final = 100  # jobs of a page while the newest one is looked for

_OPTIONS = (
    click.option(
        "--continue",
        "continue_newest",
        is_flag=True,
        help="Go on from the newest job of EXPERT, or of any expert of perstack.toml.",
    ),
    click.option("--continue-job", metavar="JOB", default="", help="Go on from the end of this job."),
    click.option(
        "--resume-from",
        metavar="CHECKPOINT",
        default="",
        help="Go on from a checkpoint: JOB:NUMBER, or NUMBER or RUN/STEP together with --continue-job "
        "(perstackctl job checkpoints JOB).",
    ),
)


def continue_options(function: Callable[P, R]) -> Callable[P, R]:
    """All of them, in the order of the help."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a job goes on: from `job`, or from the newest one when it is empty; `checkpoint` empty is its end."""

    job: str = ""
    checkpoint: str = ""
    expert: str = ""


def take_continuation(options: dict[str, Any]) -> Continuation | None:
    """What the options say, which are taken out; None when they say nothing.

    Raises:
        InvalidError: they contradict each other.
    """
    newest, job, checkpoint = (options.pop(name) for name in ("continue_newest", "continue_job", "resume_from"))
    if not (newest or job or checkpoint):
        return None
    named, colon, rest = checkpoint.rpartition(":")
    if newest and (job or checkpoint):
        raise InvalidError("give --continue, or name a job, not both", reason="usage")
    if checkpoint and not (job or named):
        message = f"{checkpoint!r} does not say of which job: write JOB:{checkpoint}, or add --continue-job JOB"
        raise InvalidError(message, reason="usage")
    if colon and job and not job.upper().startswith(named.upper()) and not named.upper().startswith(job.upper()):
        raise InvalidError(f"--continue-job {job} and --resume-from {checkpoint} name two jobs", reason="usage")
    return Continuation(max(job, named, key=len), rest if checkpoint else "")


def continuing_query(argument: str | None) -> str:
    """The query, perhaps none: a history may have something to answer. Standard input is read for `-` only."""
    if argument is None:
        return ""
    return checked(read_query(argument))


def file_or_here(config: str, continued: Continuation) -> DefinitionFile:
    """The definition's file for its directory; the current one when a job is named and there is no file.

    Raises:
        InvalidError: as `load` does, when the file is needed.
    """
    cwd = Path.cwd()
    try:
        return load(config, cwd)
    except InvalidError as error:
        if config or not continued.job or error.reason != "definition_missing":
            raise
    return DefinitionFile(cwd.resolve() / "perstack.toml", Definition(""))


async def parent_of(client: "Client", continued: Continuation, file: DefinitionFile, *, same_workspace: bool) -> Parent:
    """The job and the checkpoint that are meant.

    Raises:
        NotFoundError: reason `job_not_found` when there is no job to go on from.
    """
    job = await full_job_id(client, continued.job) if continued.job else await _newest(client, continued.expert, file)
    return Parent(job, continued.checkpoint, same_workspace)


async def _newest(client: "Client", expert: str, file: DefinitionFile) -> str:
    wanted = {expert} if expert else {each.key for each in (await client.resolve(file.definition)).experts}
    async with aclosing(client.list_jobs(page_size=_NEWEST)) as jobs:
        async for job in jobs:
            if job.expert_key in wanted and job.state.final:
                return job.id
    names = ", ".join(sorted(wanted))
    raise NotFoundError(f"no job of {names} has ended yet; run one without --continue first", reason="job_not_found")


async def inputs(
    client: "Client", parent: Parent, file: DefinitionFile, chosen: tuple[tuple[str, ...], str, bool], tenant: str
) -> tuple[dict[str, str], Workspace]:
    """Secret values for the parent's experts, and the workspace; `chosen` are --env-path, --workspace, --read-only."""
    needs = await client.logs.get_checkpoint(parent.job_id, parent.checkpoint)
    stored = await client.secrets.names(tenant) if needs.required_env else frozenset[str]()
    env_path, workspace, read_only = chosen

    def local() -> tuple[dict[str, str], Workspace]:
        cwd = Path.cwd()
        files = env_files(env_path, needs.env_paths, cwd, file.directory)
        place = Workspace() if parent.same_workspace else choose(workspace, file.directory, cwd, read_only=read_only)
        return collect(needs.required_env, files, os.environ, stored), place

    return await asyncio.to_thread(local)
