"""What people say to a job's runs, checked before it counts."""

import json
from collections.abc import Iterable

from perstackd.app.standing import OpenQuestion
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    ApprovalDecided,
    ApprovalRequested,
    CallInteractiveTool,
    ElicitationRequested,
    Event,
    Question,
    QuestionAnswered,
    QuestionKind,
)
from perstackd.domain.ids import JobId
from perstackd.domain.messages import JsonValue
from perstackd.domain.questions import checked_action, invalid_answer
from perstackd.ports.answer_schemas import AnswerSchemas


def answer_text(question: Question, action: str, content: bytes, schemas: AnswerSchemas) -> str:
    """The answer as it is kept: a tool's text or object, an elicitation's object, an approval's reason.

    Raises:
        PerstackError: INVALID `answer_invalid`, with what does not fit.
    """
    value = _value(question, content)
    text = value if isinstance(value, str) else _canonical(value)
    if question.kind is QuestionKind.APPROVAL:
        text = "" if value is None else text
    checked_action(question, action, text)
    if action in ("answer", "accept") and (problem := schemas.problem(question.answer_schema, value)):
        raise invalid_answer(question, problem)
    return "" if action in ("decline", "cancel") else text


def _value(question: Question, content: bytes) -> JsonValue:
    try:
        value: JsonValue = json.loads(content) if content else None
        _canonical(value)
    except (ValueError, RecursionError) as error:
        raise invalid_answer(question, "the answer is not JSON") from error
    return value


def _canonical(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    text.encode()  # half of a surrogate pair is no text
    return text


def closed_question(
    events: Iterable[Event], job_id: JobId, question_id: str, action: str, content: bytes
) -> OpenQuestion:
    """The question that was closed by this very answer.

    Raises:
        PerstackError: NOT_FOUND `question_not_found`; PRECONDITION `question_closed` when it was answered otherwise, or
            its run ended before.
    """
    run_id, _, own_id = question_id.rpartition(".")
    asked: OpenQuestion | None = None
    answer: QuestionAnswered | ApprovalDecided | None = None
    for event in events:
        if event.origin.run_id != run_id:
            continue
        for question in _asked(event):
            if question.id == own_id:
                asked = OpenQuestion(event.origin.run_id, event.origin.expert_key, question, event.timestamp)
        if isinstance(event.payload, QuestionAnswered | ApprovalDecided) and event.payload.id == own_id:
            answer = event.payload
    if asked is None:
        message = f"job {job_id} has no question {question_id[:128]!r}; perstackctl job questions lists the open ones"
        raise PerstackError(Kind.NOT_FOUND, "question_not_found", message)
    if answer is None or not _same(answer, asked.question, action, content):
        what = "was answered otherwise" if answer is not None else "closed without an answer"
        message = f"the question {question_id} is closed: it {what}; nothing was changed"
        raise PerstackError(Kind.PRECONDITION, "question_closed", message)
    return asked


def _asked(event: Event) -> tuple[Question, ...]:
    match event.payload:
        case CallInteractiveTool(questions=questions):
            return questions
        case ApprovalRequested(question=question) | ElicitationRequested(question=question):
            return (question,)
        case _:
            return ()


def _same(answer: QuestionAnswered | ApprovalDecided, question: Question, action: str, content: bytes) -> bool:
    if isinstance(answer, ApprovalDecided):
        return action == ("approve" if answer.approved else "deny")
    value = _value(question, content)
    text = value if isinstance(value, str) else _canonical(value)
    return action == answer.action and (text == answer.content or action in ("decline", "cancel"))
