"""A question as it is shown to the person who answers it. Pure.

All of it is untrusted. It stands behind a bar at the left, so that no text of it can pass for a line of ours, and
what would act on the terminal is written out: a person must see what they decide on.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from perstackctl.client.questions import Question, QuestionKind
from perstackctl.terminal import line, visible, width

MOST_LINES: Final = 120
LONGEST_LINE: Final = 2_000
_BAR: Final = "  │ "
_NARROWEST: Final = 20


def block(question: Question, job_id: str, name: str = "", columns: int = 0) -> str:
    """Who asks what, with all that belongs to it; cut only when it is very long, and then it says so.

    `name` is what tells it from the others that are open, its short id unless given. Lines are broken at `columns`, so
    that what a terminal would break stands behind the bar as well; 0 breaks none.
    """
    return "\n".join([f"? {headline(question)}  [{shown_name(question, name)}]", *body(question, job_id, columns)])


def shown_name(question: Question, name: str = "") -> str:
    """What a question is called, clean."""
    return line(name or question.short_id, 60)


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


def body(question: Question, job_id: str, columns: int = 0) -> Iterator[str]:
    """The message and the arguments behind their bar, broken at `columns`."""
    rows = list(islice(_rows(question), MOST_LINES + 1))
    for row in rows[:MOST_LINES]:
        yield from (_BAR + piece if piece else _BAR.rstrip() for piece in _broken(row, columns - len(_BAR)))
    if len(rows) > MOST_LINES or any(len(row) >= LONGEST_LINE for row in rows):
        yield f"  … this is not all of it; see perstackctl job questions {job_id} -o json"


def _broken(row: str, room: int) -> Iterator[str]:
    """The row in pieces of at most `room` columns, at blanks where there are some; nothing of it is lost."""
    while _NARROWEST < room < width(row):
        at = next(i for i in range(len(row), 0, -1) if width(row[:i]) <= room)
        at = row.rfind(" ", at // 2, at) + 1 or at
        yield row[:at]
        row = row[at:]
    yield row


def _rows(question: Question) -> Iterator[str]:
    yield from _text(question.message, "")
    arguments = _more(question)
    if question.message and arguments:
        yield ""
    for name, value in arguments.items():
        yield from _argument(name, value)


def _more(question: Question) -> Mapping[str, Any]:
    """The arguments, without what the message says already."""
    match question.kind:
        case QuestionKind.ELICITATION:
            return {}
        case QuestionKind.TOOL:
            return {name: value for name, value in question.arguments.items() if value != question.message}
        case _:
            return question.arguments


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


def ways(question: Question, command: str, name: str = "") -> tuple[str, ...]:
    """The commands that answer it; `command` is perstackctl with its address and `job answer JOB`, `name` as in
    `block`.
    """
    name = f"{command} {shown_name(question, name)}"
    match question.kind:
        case QuestionKind.APPROVAL:
            return (f"{name} --approve", f"{name} --deny --reason TEXT")
        case QuestionKind.ELICITATION:
            return (f"{name} --json OBJECT", f"{name} --decline")
        case _:
            return (f"{name} TEXT",)
