"""An answer that was given on the command line, made to fit the kind of its question. Pure but for the named file."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.client.questions import Action, Answer, Question, QuestionKind
from perstackctl.request.text_file import decoded, read

MAX_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says: at most one of text, approve, deny, decline, document (JSON) and file."""

    text: str | None = None
    approve: bool = False
    deny: bool = False
    reason: str = ""
    decline: bool = False
    document: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidError: more than one answer, or a reason without --deny."""
        if len(self.ways) > 1:
            raise InvalidError(f"{' and '.join(self.ways)} are two answers; give one", reason="answer_usage")
        if self.reason and not self.deny:
            raise InvalidError("--reason belongs to --deny", reason="answer_usage")

    @property
    def ways(self) -> tuple[str, ...]:
        """How it is answered; empty when it is not."""
        given = {
            "TEXT": self.text is not None,
            "--approve": self.approve,
            "--deny": self.deny,
            "--decline": self.decline,
            "--json": self.document is not None,
            "--file": self.file is not None,
        }
        return tuple(way for way, is_there in given.items() if is_there)


def answer(given: Given, question: Question) -> Answer:
    """The answer to this question.

    Raises:
        InvalidError: this kind of question is not answered so; not JSON; a file that cannot be read.
    """
    make = _MAKERS[question.kind]
    if make is None:
        raise InvalidError(
            f"question {question.short_id} is of a kind that this perstackctl does not know; use a newer one",
            reason="question_kind_unknown",
        )
    return make(given, question)


def _tool(given: Given, question: Question) -> Answer:
    if given.document is not None:
        return Answer.of(Action.ANSWER, _parsed(given.document, "--json"))
    if given.file is not None:
        return text_answer(_from_file(given.file))
    if given.text is not None:
        return text_answer(given.text)
    raise _unfit(given, question, "is answered with a text, --json or --file")


def text_answer(text: str) -> Answer:
    """A text to an interactive tool.

    Raises:
        InvalidError: empty, too large, not UTF-8.
    """
    if not text.strip():
        raise InvalidError("the answer is empty", reason="answer_empty")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidError("the answer is not UTF-8; is your terminal's locale right?", reason="not_utf8") from None
    if size > MAX_BYTES:
        raise InvalidError(f"the answer is larger than the {MAX_BYTES >> 10} KiB that are allowed", reason="too_large")
    return Answer.of(Action.ANSWER, text)


def _approval(given: Given, question: Question) -> Answer:
    if given.approve:
        return Answer(Action.APPROVE)
    if given.deny:
        return Answer.of(Action.DENY, given.reason) if given.reason else Answer(Action.DENY)
    raise _unfit(given, question, "asks for an approval: --approve or --deny")


def _elicitation(given: Given, question: Question) -> Answer:
    if given.decline:
        return Answer(Action.DECLINE)
    if given.document is not None or given.file is not None:
        text = given.document if given.document is not None else _from_file(given.file or "")
        value = _parsed(text, "--json" if given.file is None else given.file)
        if not isinstance(value, dict):
            raise InvalidError('the answer has to be a JSON object, as in {"name": "x"}', reason="answer_invalid")
        return Answer.of(Action.ACCEPT, value)
    raise _unfit(given, question, "asks for values: --json OBJECT, --file PATH or --decline")


_MAKERS: Final[Mapping[QuestionKind, Callable[[Given, Question], Answer] | None]] = {
    QuestionKind.UNSPECIFIED: None,
    QuestionKind.TOOL: _tool,
    QuestionKind.APPROVAL: _approval,
    QuestionKind.ELICITATION: _elicitation,
}


def _unfit(given: Given, question: Question, instead: str) -> InvalidError:
    way = given.ways[0] if given.ways else "nothing"
    return InvalidError(f"question {question.short_id} {instead}, not {way}", reason="answer_usage")


def _parsed(text: str, source: str) -> object:
    def refuse(name: str) -> object:
        raise ValueError(f"{name} is not JSON")

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise InvalidError(f"the answer in {source} is nested too deep", reason="answer_invalid") from None
    except ValueError as error:
        raise InvalidError(f"the answer in {source} is not JSON: {error}", reason="answer_invalid") from None
    return value


def _from_file(name: str) -> str:
    if name == "-":
        return decoded(sys.stdin.buffer, MAX_BYTES, "the answer on standard input")
    return read(Path(name), MAX_BYTES, "the answer's file")
