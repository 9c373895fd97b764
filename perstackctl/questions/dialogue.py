"""Asking a person one question on a terminal, until there is an answer or they leave it open."""

from typing import Final

from perstackctl.client.errors import ClientError
from perstackctl.client.questions import Action, Answer, Question, QuestionKind
from perstackctl.fitted import room
from perstackctl.questions.answer import Given, answer, text_answer
from perstackctl.questions.fields import Field, Value, fields_of
from perstackctl.questions.show import block
from perstackctl.questions.terminal import Asker
from perstackctl.terminal import line, visible

_SHOWN_CHOICES: Final = 40


async def ask(asker: Asker, question: Question, job_id: str, name: str = "") -> Answer:
    """Show the question, under its `name`, and read its answer; what cannot be an answer is asked again.

    Raises:
        LeftOpen: the person does not answer now.
        ClientError: a kind of question that this client does not know.
    """
    asker.forget()
    asker.say(block(question, job_id, name, room()))
    return await ask_again(asker, question)


async def ask_again(asker: Asker, question: Question) -> Answer:
    """As `ask`, for a question that stands on the terminal already."""
    match question.kind:
        case QuestionKind.TOOL:
            return await _text(asker)
        case QuestionKind.APPROVAL:
            return await _approval(asker)
        case QuestionKind.ELICITATION:
            return await _elicitation(asker, question)
        case QuestionKind.UNSPECIFIED:
            return answer(Given(), question)  # says why it cannot be answered here


async def _text(asker: Asker) -> Answer:
    while True:
        try:
            return text_answer(await asker.line("> "))
        except ClientError as error:
            asker.say(f"  {error.message}")


async def _approval(asker: Asker) -> Answer:
    # No default: a stray Enter must not decide.
    if await _choice(asker, "May it? (y/n) ", {"y": "y", "yes": "y", "n": "n", "no": "n"}) == "y":
        return Answer(Action.APPROVE)
    reason = (await asker.line("Why not, for the model (may be empty): ")).strip()
    return answer(Given(deny=True, reason=reason), _APPROVAL)


_APPROVAL: Final = Question("", QuestionKind.APPROVAL, "", "", "", "")


async def _choice(asker: Asker, prompt: str, known: dict[str, str]) -> str:
    while True:
        typed = (await asker.line(prompt)).strip().lower()
        if typed in known:
            return known[typed]
        asker.say(f"  type {' or '.join(dict.fromkeys(known.values()))}")


async def _elicitation(asker: Asker, question: Question) -> Answer:
    fields = fields_of(question.answer_schema)
    known = {"y": "y", "yes": "y", "": "y", "d": "d", "decline": "d"}
    if await _choice(asker, "Answer it? (y, or d to decline) [y] ", known) == "d":
        return Answer(Action.DECLINE)
    if fields is None:
        return await _document(asker, question)
    values: dict[str, Value] = {}
    for field in fields:
        value = await _field(asker, field)
        if value is not None:
            values[field.name] = value
    return Answer.of(Action.ACCEPT, values)


async def _document(asker: Asker, question: Question) -> Answer:
    while True:
        try:
            return answer(Given(document=await asker.line("JSON object> ")), question)
        except ClientError as error:
            asker.say(f"  {error.message}")


async def _field(asker: Asker, field: Field) -> Value | None:
    if field.about:
        asker.say(f"  │ {visible(line(field.about, 400))}")
    for number, (value, title) in enumerate(field.choices[:_SHOWN_CHOICES], 1):
        asker.say(f"  │ {number:>2}  {line(title, 100)}{'' if title == value else f' ({line(value, 60)})'}")
    if len(field.choices) > _SHOWN_CHOICES:
        asker.say(f"  │ … and {len(field.choices) - _SHOWN_CHOICES} more")
    default = "" if field.default is None else f" [{line(_shown(field.default), 60)}]"
    prompt = f"{line(field.title, 60) or line(field.name, 60)} ({field.hint()}){default}: "
    while True:
        try:
            return field.read(await asker.line(prompt))
        except ValueError as error:
            asker.say(f"  {error}")


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    return ", ".join(value) if isinstance(value, list) else str(value)
