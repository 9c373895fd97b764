"""A job that does another job again: which part of the record each of its runs stands for, and what that has for it.

A fold of both logs and nothing else, so a daemon that takes the job up again goes on at the same place.
"""

from enum import StrEnum
from typing import Final

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Origin, Question, QuestionKind, RunPayload, StartRun, StopRunByError
from perstackd.domain.ids import JobId, RunId
from perstackd.domain.job_recording import GivenAnswer, JobRecording, RecordedRun, canonical
from perstackd.domain.messages import ToolResultPart, Turn

NO_TURN: Final = "no_recorded_turn"


class ReplayMode(StrEnum):
    """What is done in earnest; the rest is the record's."""

    MODEL = "liveModel"
    TOOLS = "liveTools"


class Reenactment:
    """`recorded` is all of the log of job `job_id`; `saw` is told each fact of the job that replays it, in order."""

    def __init__(self, mode: ReplayMode, job_id: JobId, recorded: JobRecording) -> None:
        self.mode = mode
        self.job_id = job_id
        self.recorded = recorded
        self._own = JobRecording()

    def saw(self, origin: Origin, fact: RunPayload) -> None:
        """Take in the replaying job's next fact."""
        self._own.add(origin, fact)

    def start(self, parent_run_id: RunId, call_id: str) -> StartRun | None:
        """What the run was started with that this one stands for, which may not have begun yet; None when the record
        has no such run.
        """
        own = self._own.child(parent_run_id, call_id)
        recorded = self._counterpart(own) if own is not None else None
        return recorded.start if recorded is not None else None

    def turn(self, run_id: RunId) -> Turn:
        """The run's next turn.

        Raises:
            PerstackError: what the recorded run failed with, when that is what comes next; NOT_FOUND
                `no_recorded_turn`.
        """
        own, recorded = self._pair(run_id)
        if recorded is None or own is None or len(own.turns) >= len(recorded.turns):
            raise self._none(recorded, "turn", len(recorded.turns) if recorded is not None else 0)
        return recorded.turns[len(own.turns)]

    def summary(self, run_id: RunId) -> Turn:
        """The run's next summary of its history. Raises as `turn` does."""
        own, recorded = self._pair(run_id)
        if recorded is None or own is None or len(own.summaries) >= len(recorded.summaries):
            raise self._none(None, "summary", len(recorded.summaries) if recorded is not None else 0)
        return recorded.summaries[len(own.summaries)]

    def result(self, run_id: RunId, call_id: str) -> ToolResultPart | None:
        """What came of the same call in the record, under this call's id; None when there is no such call, or nothing
        came of it.
        """
        own, recorded = self._pair(run_id)
        if own is None or recorded is None or call_id not in own.call_places:
            return None
        key, place = own.call_places[call_id]
        known = recorded.calls.get(key, [])
        found = known[place] if place < len(known) else None
        return ToolResultPart(call_id, found.content, found.is_error) if found is not None else None

    def knows_delegation(self, parent_run_id: RunId, call_id: str) -> bool:
        """Whether the record has a run for this delegation."""
        return self.start(parent_run_id, call_id) is not None

    def answer(self, run_id: RunId, question: Question) -> GivenAnswer:
        """What was answered to the same question; the refusal of one that nobody answered, or asked."""
        return self.recorded_answer(run_id, question.id) or _refusal(question, self.job_id)

    def recorded_answer(self, run_id: RunId, question_id: str) -> GivenAnswer | None:
        """What was answered to the same question; None when nobody answered it, or asked."""
        own, recorded = self._pair(run_id)
        if own is None or recorded is None or question_id not in own.question_places:
            return None
        key, place = own.question_places[question_id]
        known = recorded.answers.get(key, [])
        return known[place] if place < len(known) else None

    def _pair(self, run_id: RunId) -> tuple[RecordedRun | None, RecordedRun | None]:
        own = self._own.run(run_id)
        return own, self._counterpart(own) if own is not None else None

    def _counterpart(self, own: RecordedRun) -> RecordedRun | None:
        if own is self._own.root:
            return self.recorded.root
        parent = self._counterpart(own.parent) if own.parent is not None else None
        key, place = own.birth
        known = parent.children.get(key, []) if parent is not None else []
        return known[place] if place < len(known) else None

    def _none(self, recorded: RecordedRun | None, what: str, known: int) -> PerstackError:
        end = recorded.end if recorded is not None else None
        if isinstance(end, StopRunByError):
            return PerstackError(Kind.PRECONDITION, end.reason, end.message)
        told = {"turn": "turns", "summary": "summaries"}[what]
        message = f"the record of job {self.job_id} has {known} {told} of this run, and one more was asked for"
        return PerstackError(Kind.NOT_FOUND, NO_TURN, message)


def _refusal(question: Question, job_id: JobId) -> GivenAnswer:
    why = f"the record of job {job_id} has no answer to this, and nobody is asked in a replay"
    match question.kind:
        case QuestionKind.APPROVAL:
            return GivenAnswer("deny", why)
        case QuestionKind.ELICITATION:
            return GivenAnswer("decline", "")
        case _:
            return GivenAnswer("answer", canonical({"error": "not_recorded", "message": why}))
