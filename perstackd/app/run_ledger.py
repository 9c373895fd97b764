"""What a run writes: facts at once, news of its sandboxes together with the next facts, or once there is nothing else
to do. One append less is one wait for the disk less.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from perstackd.app.job_log import Entry
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.domain.budget import Tally
from perstackd.domain.commands import Command, Generated, Summarised
from perstackd.domain.events import Payload, ReasoningMapped, RunPayload, StartRun, StreamPiece
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import Usage
from perstackd.domain.run import decide
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import RunState
from perstackd.domain.session import Progress


class RunLedger:
    """One run's; used by its worker alone. `state` is what its written facts add up to."""

    def __init__(self, services: RunServices, context: JobContext, plan: RunPlan, state: RunState) -> None:
        self.state = state
        self._services = services
        self._context = context
        self._plan = plan
        self._news: list[Entry] = []
        self._notes: set[str] = set()
        self._receipts: dict[Callable[[int], None], int] = {}

    def tell(self) -> None:
        """Let others know how the run stands."""
        now = self._services.clock.now_ms()
        self._context.standing.tell(self._plan.run_id, self._plan.expert.key, self.state, now)

    def note(self, *payloads: Payload) -> None:
        """News, to be written soon."""
        origin = self._plan.origin(self.state.step)
        self._news += [(origin, payload) for payload in payloads]

    def noted(self, answer: Generated) -> Generated:
        """Without the turn's notes, which each turn of the run repeats: they are news once."""
        fresh = [note for note in answer.turn.notes if note not in self._notes]
        self._notes.update(fresh)
        self.note(*(ReasoningMapped(note) for note in fresh))
        return Generated(replace(answer.turn, notes=()))

    def show(self, progress: Progress) -> None:
        """A running call's output, to whoever watches; never written."""
        record, origin = self._context.log.record, self._plan.origin(self.state.step)
        call_id, offset = progress.call_id, progress.offset
        kind = "streamToolOutput"
        piece = StreamPiece(record.last_seq, call_id, offset, kind, record.id, origin, progress.delta, call_id)
        self._context.log.stream(piece)

    def after(self, acknowledge: Callable[[int], None], position: int) -> None:
        """Call `acknowledge` with `position`, or a later one, when all that is known now is durable."""
        self._receipts[acknowledge] = position

    def unwritten(self) -> list[Payload]:
        """The news that nobody wrote yet; they are the caller's now."""
        news, self._news = self._news, []
        return [payload for _, payload in news]

    async def flush(self) -> None:
        """Write the news. Raises as JobLog.append does."""
        await self._append([], lambda record: record)

    async def record(self, command: Command) -> Sequence[RunPayload]:
        """Decide, write, then believe: the state changes only once its facts are durable. Returns the facts."""
        state, facts = self.state, []
        for fact in decide(state, command, self._tally(command)):
            facts.append((state.step, fact))
            state = evolve(state, fact)
        if facts:
            used = state.usage - self.state.usage
            entries: list[Entry] = [(self._plan.origin(step), fact) for step, fact in facts]
            await self._append(entries, lambda record: self._accounted(record, state, used))
            self.state = state
            self.tell()
        return [fact for _, fact in facts]

    async def _append(self, entries: list[Entry], change: Callable[[JobRecord], JobRecord]) -> None:
        news, receipts = len(self._news), dict(self._receipts)
        if news or entries:
            await self._context.log.append([*self._news, *entries], change)
        self._news = self._news[news:]
        for acknowledge, position in receipts.items():
            if self._receipts.get(acknowledge) == position:
                del self._receipts[acknowledge]
            acknowledge(position)

    def _tally(self, command: Command) -> Tally:
        """What the job has used, the turn or the summary in hand included: it is paid for before the next one."""
        tally, start = self._context.log.tally, self.state.start
        if not isinstance(command, Generated | Summarised) or start is None:
            return tally
        used = command.turn.usage
        calls = len(command.turn.calls) if isinstance(command, Generated) else 0
        return tally.plus(used.input_tokens + used.output_tokens, self._price(start, used) or 0, calls)

    def _price(self, start: StartRun, used: Usage) -> int | None:
        return self._services.price(start.provider, start.model, used)

    def _accounted(self, record: JobRecord, state: RunState, used: Usage) -> JobRecord:
        """The job's record with what this run used since its last facts."""
        now = self._services.clock.now_ms()
        standing = self._context.standing.told(self._plan.run_id, self._plan.expert.key, state, now)
        record = standing.shown(record)
        if state.start is None or used == Usage():
            return record
        cost = self._price(state.start, used)
        return replace(
            record,
            usage=record.usage + used,
            microdollars=record.microdollars + (cost or 0),
            cost_known=record.cost_known and cost is not None,
        )
