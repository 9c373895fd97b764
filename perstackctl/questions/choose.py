"""Which question is meant: a full id, its part after the run's, or the one that is open. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from perstackctl.client.errors import InvalidError, NotFoundError, PreconditionError
from perstackctl.client.questions import Question

# The daemon's: step, place of the call in its turn, fence of a later sandbox and number of the elicitation; with or
# without the run before it.
_ID: Final = re.compile(r"(?:[0-9A-Za-z]*\.)?\d+-\d+(?:(?:f\d+)?e\d+)?", re.ASCII)


def looks_like_id(text: str) -> bool:
    """Whether it has the form of a question's id."""
    return _ID.fullmatch(text) is not None


def named(questions: Sequence[Question], given: str) -> tuple[Question, ...]:
    """Those that `given` names: the one with that id, else those with that short id, else those that end so."""
    exact = tuple(question for question in questions if question.id == given)
    short = tuple(question for question in questions if question.short_id == given)
    return exact or short or tuple(question for question in questions if question.id.endswith(given))


def only(questions: Sequence[Question], job_id: str) -> Question:
    """The one question that is open.

    Raises:
        PreconditionError: none is, reason `no_question`.
        InvalidError: several are, reason `question_ambiguous`.
    """
    match questions:
        case []:
            raise PreconditionError(
                f"job {job_id} asks nothing now (perstackctl job get {job_id})", reason="no_question"
            )
        case [one]:
            return one
        case _:
            raise ambiguous(questions, f"job {job_id} asks {len(questions)} questions")


def ambiguous(questions: Sequence[Question], what: str) -> InvalidError:
    """Say which one: reason `question_ambiguous`."""
    ids = [question.short_id for question in questions]
    names = [question.id if ids.count(question.short_id) > 1 else question.short_id for question in questions]
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return InvalidError(f"{what}: {shown}; name one of them", reason="question_ambiguous")


def unknown(given: str, questions: Sequence[Question], job_id: str) -> NotFoundError:
    """No such question: reason `question_not_found`."""
    ids = ", ".join(question.short_id for question in questions[:8])
    known = f"open: {ids}" if ids else "it asks nothing now"
    return NotFoundError(f"job {job_id} has no question {given!r}; {known}", reason="question_not_found")
