"""What a person is asked, and what becomes of the answer."""

import json
from dataclasses import replace
from typing import Final, assert_never

from perstackd.domain.commands import Elicited
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import ApprovalDecided, Question, QuestionAnswered, QuestionKind, StartRun, ToolRoute
from perstackd.domain.messages import JsonObject, TextPart, ToolCallPart, ToolResultPart, Turn

MAX_MESSAGE: Final = 4096
MAX_OPEN: Final = 16
MAX_ANSWER: Final = 256 << 10
_APPROVAL: Final[JsonObject] = {"enum": ["approve", "deny"]}
_ACTIONS: Final = {
    QuestionKind.TOOL: ("answer",),
    QuestionKind.APPROVAL: ("approve", "deny"),
    QuestionKind.ELICITATION: ("accept", "decline", "cancel"),
}


def tool_question(start: StartRun, turn: Turn, step: int, call: ToolCallPart, route: ToolRoute) -> Question:
    """What an interactive tool asks: answered with a text, or with an object in the shape of the tool's input."""
    shown = next((tool for tool in start.tools if tool.name == call.name), None)
    schemas: list[object] = [{"type": "string", "minLength": 1}]
    if shown is not None:
        schemas.append(dict(shown.input_schema))
    said = next((call.arguments[key] for key in ("question", "message", "prompt") if call.arguments.get(key)), None)
    message = said if isinstance(said, str) else shown.description if shown is not None else route.target
    schema: JsonObject = {"anyOf": schemas}  # type: ignore[dict-item]
    return _question(turn, step, call, route, kind=QuestionKind.TOOL, message=message, schema=schema)


def approval_question(turn: Turn, step: int, call: ToolCallPart, route: ToolRoute) -> Question:
    """Whether a call may be made."""
    message = f"May the skill {route.skill} call {route.target}?"
    return _question(turn, step, call, route, kind=QuestionKind.APPROVAL, message=message, schema=dict(_APPROVAL))


def elicitation_question(turn: Turn, step: int, call: ToolCallPart, route: ToolRoute, asked: Elicited) -> Question:
    """What a server asks while its tool runs. A later sandbox's question has another id: an answer that is sent again
    must not be taken for its.
    """
    message, schema = asked.message, asked.schema
    question = _question(turn, step, call, route, kind=QuestionKind.ELICITATION, message=message, schema=schema)
    fence = f"f{asked.fence}" if asked.fence > 1 else ""
    return replace(question, id=f"{question.id}{fence}e{asked.elicitation}")


def elicitation_fence(question: Question) -> int:
    """Which of the run's sandboxes asked it."""
    fence = question.id.rpartition("e")[0].partition("f")[2]
    return int(fence) if fence else 1


def _question(
    turn: Turn, step: int, call: ToolCallPart, route: ToolRoute, *, kind: QuestionKind, message: str, schema: JsonObject
) -> Question:
    place = 1 + [other.call_id for other in turn.calls].index(call.call_id)
    return Question(
        id=f"{step}-{place}",
        kind=kind,
        call_id=call.call_id,
        skill=route.skill,
        tool=route.target,
        arguments=call.arguments,
        message=message[:MAX_MESSAGE],
        answer_schema=schema,
    )


def checked_action(question: Question, action: str, content: str) -> None:
    """Whether the question can be answered in this way, its schema left aside.

    Raises:
        PerstackError: INVALID `answer_invalid`.
    """
    allowed = _ACTIONS[question.kind]
    if action not in allowed:
        known = " or ".join(allowed)
        raise invalid_answer(question, f"it is answered with {known}, not with {action[:64]!r}")
    if len(content.encode()) > MAX_ANSWER:
        raise invalid_answer(question, f"the answer is larger than {MAX_ANSWER >> 10} KiB")


def invalid_answer(question: Question, why: str) -> PerstackError:
    """INVALID `answer_invalid`."""
    return PerstackError(Kind.INVALID, "answer_invalid", f"the question {question.id} is still open: {why}")


def answer_fact(question: Question, action: str, content: str) -> QuestionAnswered | ApprovalDecided:
    """The fact of an answer that was checked."""
    match question.kind:
        case QuestionKind.APPROVAL:
            return ApprovalDecided(question.id, question.call_id, action == "approve", content)
        case QuestionKind.TOOL | QuestionKind.ELICITATION:
            return QuestionAnswered(question.id, question.call_id, question.kind, action, content)
        case _:
            assert_never(question.kind)


def answer_result(fact: QuestionAnswered) -> ToolResultPart:
    """What the model sees of a person's answer."""
    return ToolResultPart(fact.call_id, (TextPart(fact.content),))


def denied_result(fact: ApprovalDecided) -> ToolResultPart:
    """What the model sees of a call that was not allowed."""
    why = f": {fact.reason}" if fact.reason else ""
    text = json.dumps({"error": "denied", "message": f"a person did not allow this call{why}"}, ensure_ascii=False)
    return ToolResultPart(fact.call_id, (TextPart(text),), is_error=True)
