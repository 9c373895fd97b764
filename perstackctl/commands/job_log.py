"""perstackctl job log: a job's events, chosen and written for reading, or what they add up to."""

import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from perstackctl.client.errors import InvalidError, NotFoundError
from perstackctl.client.values import Event, Job
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client
from perstackctl.fitted import Column, columns_of_terminal, fitted, room
from perstackctl.joblog.choice import CATEGORIES, Choice, Steps, Window, known_types
from perstackctl.joblog.rows import Rows
from perstackctl.joblog.tally import RunLine, Tally, document
from perstackctl.output import JSON, TEXT, count, elapsed, note, say
from perstackctl.terminal import escaped_json, line
from perstackctl.watch import payload as p
from perstackctl.watch.json_lines import event_line
from perstackctl.watch.trace import Trace, fold_event

if TYPE_CHECKING:
    from perstackctl.client.client import Client

JSONL: Final = "jsonl"
_EPILOG: Final = """\b
Examples:
  perstackctl job log 01JD3Z
  perstackctl job log 01JD3Z --errors
  perstackctl job log 01JD3Z --step '>=5' --tools
  perstackctl job log 01JD3Z --type callTools --type retry -o jsonl | jq .turn.usage
  perstackctl job log 01JD3Z --after-seq 400 --limit 100
  perstackctl job log 01JD3Z --summary

\b
Kinds add up: --errors --tools shows both. --step and --run narrow what is shown.
"""
_COLUMNS: Final = (
    Column("EXPERT", least=12),
    Column("OUTCOME"),
    Column("STEPS", right=True),
    Column("IN", right=True),
    Column("CACHED", right=True),
    Column("OUT", right=True),
    Column("TOOK", right=True),
)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is read and how it is written."""

    choice: Choice
    run: str
    after_seq: int
    limit: int
    output: str
    summary: bool


@click.command(epilog=_EPILOG)
@click.argument("job_id", metavar="JOB")
@click.option("--step", metavar="STEPS", help="Only these steps: 5, '>=5', '<5' or 3-7.")
@click.option(
    "--run", "run_id", metavar="RUN", default="", help="Only this run: its id, or the end or beginning of it."
)
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Events of this type, as in callTools. Repeatable."
)
@click.option("--errors", is_flag=True, help=f"Only {CATEGORIES['errors']}.")
@click.option("--tools", is_flag=True, help=f"Only {CATEGORIES['tools']}.")
@click.option("--delegations", is_flag=True, help=f"Only {CATEGORIES['delegations']}.")
@click.option("--messages", is_flag=True, help=f"Only {CATEGORIES['messages']}.")
@click.option("--summary", is_flag=True, help="What it adds up to, run by run, instead of the events.")
@click.option("--after-seq", metavar="N", type=click.IntRange(0), default=0, help="Only events after this one.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="At most so many events.")
@click.option(
    "-o",
    "--output",
    type=click.Choice([TEXT, JSON, JSONL]),
    default=TEXT,
    show_default=True,
    help="A line for people, one JSON document, or one JSON object a line.",
)
@address_option
@click.pass_context
def log(ctx: click.Context, /, job_id: str, **options: Any) -> None:
    """Read a job's log as it is now, before, during or after its end; perstackctl job watch waits for more.

    A line has the event's number, its time of day (UTC), the time since the job was made, the expert and its step.
    """
    steps = Steps.read(options["step"]) if options["step"] is not None else None
    kinds = {name: options[name] for name in CATEGORIES}
    choice = Choice(known_types(options["types"]), steps, **kinds)
    limit = options["limit"] or 0
    chosen = LogOptions(choice, options["run_id"], options["after_seq"], limit, options["output"], options["summary"])
    if chosen.summary and not (choice.everything and not chosen.after_seq and not limit):
        raise InvalidError("--summary adds up whole runs; only --run goes with it", reason="filter_invalid")
    in_loop(_log(make_client(ctx), job_id, chosen))


async def _log(client: "Client", given: str, options: LogOptions) -> None:
    async with client:
        job = await client.get_job(await full_job_id(client, given))
        if options.run:
            run_id = await _run_id(client, job.id, options.run)
            options = replace(options, choice=replace(options.choice, run_id=run_id))
        if options.summary:
            await _summarise(client, job, options)
        else:
            await _print(client, job, options)


async def _run_id(client: "Client", job_id: str, given: str) -> str:
    ids = [run.id for run in await client.list_runs(job_id)]
    wanted = given.upper()
    exact = [run_id for run_id in ids if run_id == wanted]
    match exact or [run_id for run_id in ids if run_id.startswith(wanted) or run_id.endswith(wanted)]:
        case []:
            raise NotFoundError(f"job {job_id} has no run {given!r} (perstackctl job runs {job_id})", reason="no_run")
        case [one]:
            return one
        case several:
            raise InvalidError(
                f"{len(several)} runs of job {job_id} begin or end with {given!r}; give more of it",
                reason="id_ambiguous",
            )


async def events_of(client: "Client", job: Job, after_seq: int = 0) -> AsyncGenerator[tuple[Event, p.Fields], None]:
    """The log as it is now, event by event with its members; one batch of it is in memory at a time."""
    async with aclosing(client.watch_job(job.id, after_seq, follow=False)) as batches:
        async for batch in batches:
            for event in batch.events:
                yield event, p.fields_of(event)


async def _print(client: "Client", job: Job, options: LogOptions) -> None:
    writer = _WRITERS[options.output]()
    window, last, trace = Window(options.limit), 0, Trace(started_at=job.created_at)
    async with aclosing(events_of(client, job, options.after_seq)) as events:
        async for event, fields in events:
            trace = fold_event(trace, event)
            if not options.choice.keeps(event, fields):
                continue
            if not window.takes():
                break
            last = event.seq
            writer.write(trace, event, fields)
    writer.close()
    if window.full:
        note(f"there is more; go on with --after-seq {last}")


class _Writer(Protocol):
    def write(self, trace: Trace, event: Event, fields: p.Fields) -> None: ...

    def close(self) -> None: ...


class _Text:
    def __init__(self) -> None:
        self._rows = Rows(room())

    def write(self, trace: Trace, event: Event, fields: p.Fields) -> None:
        for row in self._rows.of(trace, event, fields):
            say(row)

    def close(self) -> None:
        pass


class _JsonLines:
    def __init__(self) -> None:
        self._escape = sys.stdout.isatty()

    def write(self, _trace: Trace, event: Event, _fields: p.Fields) -> None:
        self.put(event_line(event) + "\n")

    def put(self, text: str) -> None:
        shown = escaped_json(text) if self._escape else text
        sys.stdout.buffer.write(shown.encode("utf-8", "replace"))

    def close(self) -> None:
        sys.stdout.buffer.flush()


class _Json(_JsonLines):
    """One list, written as it comes."""

    _before = "[\n"

    def write(self, _trace: Trace, event: Event, _fields: p.Fields) -> None:
        self.put(self._before + event_line(event))
        self._before = ",\n"

    def close(self) -> None:
        self.put("[]\n" if self._before == "[\n" else "\n]\n")
        super().close()


_WRITERS: Final[dict[str, Callable[[], _Writer]]] = {TEXT: _Text, JSON: _Json, JSONL: _JsonLines}


async def _summarise(client: "Client", job: Job, options: LogOptions) -> None:
    tally = Tally(Trace(started_at=job.created_at))
    async with aclosing(events_of(client, job)) as events:
        async for event, fields in events:
            tally.add(event, fields)
    runs = [run for run in tally.runs(int(time.time() * 1000)) if options.choice.run_id in {"", run.id}]
    match options.output:
        case name if name == TEXT:
            say(_summary(runs))
        case name if name == JSON:
            _put(json.dumps([document(run) for run in runs], indent=2, ensure_ascii=False))
        case _:
            for run in runs:
                _put(json.dumps(document(run), ensure_ascii=False, separators=(",", ":")))


def _put(text: str) -> None:
    sys.stdout.write((escaped_json(text) if sys.stdout.isatty() else text) + "\n")


def _summary(runs: list[RunLine]) -> str:
    """The table of the runs, and below it which tools each of them called."""
    table = fitted(_COLUMNS, [_row(run) for run in runs], columns_of_terminal())
    calls = [f"{line(run.expert, 40)}: {_tools(run)}" for run in runs if run.tools]
    return "\n".join([table, "", "Tool calls:", *(f"  {each}" for each in calls)] if calls else [table])


def _row(run: RunLine) -> tuple[object, ...]:
    usage = run.usage
    tokens = (count(usage.input_tokens), count(usage.cached_input_tokens), count(usage.output_tokens))
    return (f"{'└ ' * run.depth}{line(run.expert)}", run.state, run.steps, *tokens, elapsed(run.duration_ms))


def _tools(run: RunLine) -> str:
    by_count = sorted(run.tools.items(), key=lambda item: (-item[1], item[0]))
    words = []
    for name, number in by_count:
        failed = run.failed_tools.get(name, 0)
        words.append(f"{line(name, 64)} {number}{f' ({failed} failed)' if failed else ''}")
    return ", ".join(words)
