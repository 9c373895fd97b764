"""perstackctl job: the group; its commands are imported when they are used."""

from typing import Final

import click

from perstackctl.commands.lazy import LazyCommand, LazyGroup

_HERE: Final = "perstackctl.commands"
_COMMANDS: Final = {
    "ls": LazyCommand(f"{_HERE}.job_show:list_jobs", "List jobs, newest first."),
    "get": LazyCommand(f"{_HERE}.job_show:get", "Show one job, with its answer."),
    "watch": LazyCommand(f"{_HERE}.job_watch:watch", "Show what happens in a job."),
    "questions": LazyCommand(f"{_HERE}.job_questions:questions", "Show what a job waits for a person to say."),
    "answer": LazyCommand(f"{_HERE}.job_questions:answer", "Answer a question of a job."),
    "pause": LazyCommand(f"{_HERE}.job_control:pause", "Let a job rest after the step in hand."),
    "resume": LazyCommand(f"{_HERE}.job_control:resume", "Let a paused job go on."),
    "cancel": LazyCommand(f"{_HERE}.job_control:cancel", "Ask for a job's end."),
    "runs": LazyCommand(f"{_HERE}.job_runs:runs", "List a job's runs and their sandboxes."),
    "log": LazyCommand(f"{_HERE}.job_log:log", "Read a job's log, or parts of it."),
    "checkpoints": LazyCommand(f"{_HERE}.checkpoint:checkpoints", "List where a job's runs stood after each step."),
    "checkpoint": LazyCommand(f"{_HERE}.checkpoint:checkpoint", "Show one checkpoint, with its history."),
    "replay": LazyCommand(f"{_HERE}.replay:replay", "Decide an ended job's events anew, and compare."),
    "record": LazyCommand(f"{_HERE}.replay:record", "Print an ended job's model turns as a conversation file."),
    "export": LazyCommand(f"{_HERE}.transfer:export", "Write an ended job into a file."),
    "import": LazyCommand(f"{_HERE}.transfer:import_", "Read an exported job from a file."),
    "rm": LazyCommand(f"{_HERE}.retention:rm", "Delete ended jobs."),
    "erase": LazyCommand(f"{_HERE}.retention:erase", "Delete all that is kept of a tenant."),
    "tree": LazyCommand(f"{_HERE}.job_tree:tree", "Show who delegated to whom, and what came of it."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def job() -> None:
    """Jobs: requests that were made, with all that happened in them.

    JOB is a full id, or its beginning (at least 6 characters) when no other job begins so.
    """
