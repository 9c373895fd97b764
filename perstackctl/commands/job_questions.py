"""perstackctl job questions and answer: what a job waits for a person to say."""

import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.errors import InvalidError, JobWaitsError
from perstackctl.client.questions import Answer, Question
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.fitted import room
from perstackctl.output import JSON, age, document, say
from perstackctl.questions.answer import Given
from perstackctl.questions.answer import answer as made
from perstackctl.questions.choose import ambiguous, distinct, looks_like_id, named, only, unknown
from perstackctl.questions.show import block, ways

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_EPILOG: Final = """\b
Examples:
  perstackctl job answer 01JD3Z "b2"                     the one question that is open
  perstackctl job answer 01JD3Z 3-1 "b2"
  perstackctl job answer 01JD3Z 4-2 --approve
  perstackctl job answer 01JD3Z 4-2 --deny --reason "not on a Friday"
  perstackctl job answer 01JD3Z 5-1e1 --json '{"database": "staging"}'
  perstackctl job answer 01JD3Z 3-1 --file answer.md
  perstackctl job answer 01JD3Z                          asks, on a terminal

\b
Exit codes:
  0 answered   1 closed with another answer, or no such question   2 the answer does not fit
  4 left open   6 refused   7 daemon unreachable
"""


@click.command(
    epilog="\b\nExamples:\n  perstackctl job questions 01JD3Z\n"
    "  perstackctl job questions 01JD3Z -o json | jq -r '.[].id'"
)
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def questions(ctx: click.Context, job_id: str, output: str) -> None:
    """Show what a job waits for a person to say, oldest first, with the commands that answer."""
    client = make_client(ctx)
    full, found = in_loop(_questions(client, job_id))
    if output == JSON:
        document(found)
        return
    if not found:
        say(f"job {full} asks nothing now")
        return
    from perstackctl.watch.follow import answer_command

    command = answer_command(client.path, full)
    say("\n\n".join(_shown(question, full, command, distinct(question, found)) for question in found))


async def _questions(client: "Client", given: str) -> tuple[str, tuple[Question, ...]]:
    async with client:
        job_id = await full_job_id(client, given)
        return job_id, await client.list_questions(job_id)


def _shown(question: Question, job_id: str, command: str, name: str) -> str:
    asked = f"  asked {age(question.asked_at)} ago; answer with" if question.asked_at else "  answer with"
    shown = block(question, job_id, name, room())
    return "\n".join([shown, asked, *(f"    {way}" for way in ways(question, command, name))])


@click.command(epilog=_EPILOG)
@click.argument("job_id", metavar="JOB")
@click.argument("question", required=False)
@click.argument("text", required=False)
@click.option("--approve", is_flag=True, help="An approval: the call may be made.")
@click.option("--deny", is_flag=True, help="An approval: the call may not be made.")
@click.option("--reason", default="", help="With --deny: what the model is told.")
@click.option("--decline", is_flag=True, help="A server's question: it gets no answer.")
@click.option("--json", "json_text", metavar="JSON", help="One JSON value; an object for a server's question.")
@click.option("--file", metavar="PATH|-", help="The text, or for a server's question the JSON, of a file. - is stdin.")
@output_option
@address_option
@click.pass_context
def answer(
    ctx: click.Context, /, job_id: str, question: str | None, text: str | None, *, output: str, **given: object
) -> None:
    """Answer a QUESTION of a job with TEXT, or in the way that the question asks for.

    QUESTION is an id of perstackctl job questions, or the part of it after the dot, as in 3-1. It may be left out when
    one question is open; what does not look like an id is the TEXT then. Without an answer, on a terminal, the
    question is shown and asked. The same answer given twice is no error.
    """
    said = _given(question, text, given)
    name = None if question is None or question is said.text else question
    client = make_client(ctx)
    if not said.ways and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidError("there is no answer: give TEXT, --approve, --deny, --json, --file or --decline")
    answered = in_loop(_answer(client, job_id, name, said))
    if output == JSON:
        document(answered)
    else:
        say(f"answered {answered.short_id}")


def _given(question: str | None, text: str | None, given: dict[str, object]) -> Given:
    document, file = given.pop("json_text"), given.pop("file")
    flags = any((given["approve"], given["deny"], given["decline"], document is not None, file is not None))
    if question is not None and text is None and not flags and not looks_like_id(question):
        text = question
    return Given(
        text=text,
        approve=bool(given["approve"]),
        deny=bool(given["deny"]),
        reason=str(given["reason"]),
        decline=bool(given["decline"]),
        document=None if document is None else str(document),
        file=None if file is None else str(file),
    )


async def _answer(client: "Client", given_job: str, name: str | None, said: Given) -> Question:
    import asyncio

    async with client:
        job_id = await full_job_id(client, given_job)
        question = await _meant(client, job_id, name)
        if not said.ways:
            return await _asked(client, job_id, question)
        answer = await asyncio.to_thread(made, said, question)
        await client.answer_question(job_id, question.id, answer)
        return question


async def _meant(client: "Client", job_id: str, name: str | None) -> Question:
    """The question that is meant. One that is closed is looked for in the log: the same answer again is no error."""
    found = await client.list_questions(job_id)
    if name is None:
        return only(found, job_id)
    match named(found, name) or await _once_asked(client, job_id, name):
        case []:
            raise unknown(name, found, job_id)
        case [one]:
            return one
        case several:
            raise ambiguous(several, f"{len(several)} questions of job {job_id} end with {name!r}")


async def _once_asked(client: "Client", job_id: str, name: str) -> Sequence[Question]:
    from perstackctl.watch.payload import fields_of, questions

    kinds = {"callInteractiveTool", "approvalRequested", "elicitationRequested"}
    found: list[Question] = []
    async with aclosing(client.watch_job(job_id, follow=False)) as batches:
        async for batch in batches:
            asked = (event for event in batch.events if event.type in kinds)
            found += [q for event in asked for q in questions(event, fields_of(event)) if _is_named(q, name)]
    return list({question.id: question for question in found}.values())


def _is_named(question: Question, name: str) -> bool:
    return name in {question.id, question.short_id} or ("." in name and question.id.endswith(name))


async def _asked(client: "Client", job_id: str, question: Question) -> Question:
    """Put to whoever sits at the terminal, until the daemon takes the answer."""
    from perstackctl.questions.dialogue import ask, ask_again
    from perstackctl.questions.terminal import LeftOpen, Terminal, divert_signal

    terminal = Terminal(divert_signal)
    try:
        answer: Answer = await ask(terminal, question, job_id)
        while True:
            try:
                await client.answer_question(job_id, question.id, answer)
            except InvalidError as error:
                terminal.say(f"  {error.message}")
                answer = await ask_again(terminal, question)
            else:
                return question
    except LeftOpen:
        raise JobWaitsError(f"question {question.short_id} of job {job_id} stays open") from None
