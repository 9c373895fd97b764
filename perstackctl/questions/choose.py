"""Which question is meant: a full id, its part after the run's, or the one that is open. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from perstackctl.client.errors import InvalidError, NotFoundError, PreconditionError
from perstackctl.client.questions import Question

_RUN_CHARACTERS: Final = 4
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


def distinct(question: Question, questions: Sequence[Question]) -> str:
    """The shortest name that means this one of `questions`: its short id, with the end of the run's id before it when
    another one's is the same.
    """
    others = [other for other in questions if other.id != question.id]
    if all(other.short_id != question.short_id for other in others):
        return question.short_id
    least = len(question.short_id) + 1 + _RUN_CHARACTERS
    ends = (question.id[-length:] for length in range(least, len(question.id)))
    return next((end for end in ends if not any(other.id.endswith(end) for other in others)), question.id)


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
    names = [distinct(question, questions) for question in questions[:9]]
    shown = ", ".join(names[:8]) + (", …" if len(questions) > 8 else "")
    return InvalidError(f"{what}: {shown}; name one of them", reason="question_ambiguous")


def unknown(given: str, questions: Sequence[Question], job_id: str) -> NotFoundError:
    """No such question: reason `question_not_found`."""
    ids = ", ".join(distinct(question, questions) for question in questions[:8])
    known = f"open: {ids}" if ids else "it asks nothing now"
    return NotFoundError(f"job {job_id} has no question {given!r}; {known}", reason="question_not_found")
