"""A question as it is shown to the person who answers it. Pure.

All of it is untrusted. It stands behind a bar at the left, so that no text of it can pass for a line of ours, and
what would act on the terminal is written out: a person must see what they decide on.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from perstackctl.client.questions import Question, QuestionKind
from perstackctl.terminal import line, visible

MOST_LINES: Final = 120
LONGEST_LINE: Final = 2_000
_BAR: Final = "  │ "


def block(question: Question, job_id: str) -> str:
    """Who asks what, with all that belongs to it; cut only when it is very long, and then it says so."""
    return "\n".join([f"? {headline(question)}  [{line(question.short_id, 24)}]", *body(question, job_id)])


def headline(question: Question) -> str:
    """Who asks what, in one line."""
    who, what = line(question.expert_key, 60), tool_name(question)
    match question.kind:
        case QuestionKind.APPROVAL:
            return f"{who} wants to call {what}"
        case QuestionKind.ELICITATION:
            return f"{what}, called by {who}, asks"
        case _:
            return f"{who} asks ({what})"


def tool_name(question: Question) -> str:
    """The tool, with its skill."""
    return f"{line(question.skill, 60)}.{line(question.tool, 60)}" if question.skill else line(question.tool, 60)


def body(question: Question, job_id: str) -> Iterator[str]:
    """The message and the arguments behind their bar."""
    rows = list(islice(_rows(question), MOST_LINES + 1))
    yield from (_BAR + row if row else _BAR.rstrip() for row in rows[:MOST_LINES])
    if len(rows) > MOST_LINES or any(len(row) >= LONGEST_LINE for row in rows):
        yield f"  … this is not all of it; see perstackctl job questions {job_id} -o json"


def _rows(question: Question) -> Iterator[str]:
    yield from _text(question.message, "")
    if question.message and question.arguments and question.kind is not QuestionKind.ELICITATION:
        yield ""
    if question.kind is QuestionKind.ELICITATION:
        return
    for name, value in question.arguments.items():
        yield from _argument(name, value)


def _argument(name: str, value: Any) -> Iterator[str]:
    label = visible(line(name, 80))
    if isinstance(value, str) and "\n" in value.strip("\n"):
        yield f"{label}:"
        yield from _text(value, "| ")
    else:
        yield f"{label}: {_cut(visible(_written(value)).replace(chr(10), ' '))}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(text: str, before: str) -> Iterable[str]:
    if not text:
        return ()
    return (before + _cut(row.expandtabs(4)) for row in visible(text).split("\n"))


def _cut(text: str) -> str:
    return text if len(text) < LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"


def ways(question: Question, command: str) -> tuple[str, ...]:
    """The commands that answer it; `command` is perstackctl with its address and `job answer JOB`."""
    name = f"{command} {line(question.short_id, 24)}"
    match question.kind:
        case QuestionKind.APPROVAL:
            return (f"{name} --approve", f"{name} --deny --reason TEXT")
        case QuestionKind.ELICITATION:
            return (f"{name} --json OBJECT", f"{name} --decline")
        case _:
            return (f"{name} TEXT",)
