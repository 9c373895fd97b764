"""How a job's runs stand at this moment: who works, who waits for a person, and for what."""

from dataclasses import dataclass, replace

from perstackd.domain.events import Question
from perstackd.domain.ids import RunId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.run_state import Phase, RunState


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question with its place; `asked_at` in milliseconds since the epoch."""

    run_id: RunId
    expert_key: str
    question: Question
    asked_at: int

    @property
    def id(self) -> str:
        """Unique in its job."""
        return f"{self.run_id}.{self.question.id}"


class Standing:
    """One job's runs. Told by each run's worker whenever its state changes."""

    def __init__(self) -> None:
        self._phases: dict[RunId, Phase] = {}
        self._open: dict[RunId, tuple[OpenQuestion, ...]] = {}

    def tell(self, run_id: RunId, expert_key: str, state: RunState, now_ms: int) -> None:
        """The run's state; an ended run is forgotten."""
        if state.end is not None:
            self._phases.pop(run_id, None)
            self._open.pop(run_id, None)
            return
        self._phases[run_id] = state.phase
        known = {each.question.id: each for each in self._open.get(run_id, ())}
        self._open[run_id] = tuple(
            known.get(question.id) or OpenQuestion(run_id, expert_key, question, now_ms) for question in state.questions
        )

    def told(self, run_id: RunId, expert_key: str, state: RunState, now_ms: int) -> "Standing":
        """How all would stand with that state of the run; itself stays as it is."""
        after = Standing()
        after._phases, after._open = dict(self._phases), dict(self._open)
        after.tell(run_id, expert_key, state, now_ms)
        return after

    def forget(self, run_id: RunId) -> None:
        """The run's worker is gone, whether or not its end was told. Idempotent."""
        self._phases.pop(run_id, None)
        self._open.pop(run_id, None)

    @property
    def questions(self) -> tuple[OpenQuestion, ...]:
        """What waits for a person, oldest first."""
        everything = (each for questions in self._open.values() for each in questions)
        return tuple(sorted(everything, key=lambda each: (each.asked_at, each.id)))

    @property
    def waiting(self) -> bool:
        """Whether only people are waited for: somebody is asked, and nobody works."""
        works = any(self._works(run_id, phase) for run_id, phase in self._phases.items())
        return bool(self.questions) and not works

    def _works(self, run_id: RunId, phase: Phase) -> bool:
        return phase not in {Phase.ASKING, Phase.DELEGATING} and not self._open.get(run_id)

    def shown(self, record: JobRecord) -> JobRecord:
        """The record as it stands now; one that is queued or has ended keeps its state."""
        state = record.state
        if state in {JobState.RUNNING, JobState.WAITING}:
            state = JobState.WAITING if self.waiting else JobState.RUNNING
        open_questions = len(self.questions)
        if (record.state, record.open_questions) == (state, open_questions):
            return record  # as after most facts
        return replace(record, state=state, open_questions=open_questions)
