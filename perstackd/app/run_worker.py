"""Runs one expert: feeds the law of the run with what its sandboxes ask and what models, children and people answer,
and carries out what follows.

Above it is the job's worker, which may cancel it at any point; below are the pool, the sandboxes' links, the models and
the log. One task reads each link; model calls, children and look-ups run in tasks of their own; all commands meet in
one bounded inbox, so that decisions are made one after the other. A run outlives its sandboxes: when one is lost it
goes on in fresh ones from its last fact, and while only people are waited for it has none. Shutdown order: tasks,
workspace and sandboxes (by the pool), then the caller.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

import anyio
import structlog

from perstackd.app.call_wave import CallWave
from perstackd.app.errors import single_errors
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_inbox import Finished, Heard, Item, LookedUp, Overdue, RunInbox, Settled, Told, access_event
from perstackd.app.run_ledger import RunLedger
from perstackd.app.run_losses import Losses
from perstackd.app.run_member import RunMember
from perstackd.app.run_opening import Opening, renamed
from perstackd.app.run_party import RunParty
from perstackd.app.run_return import come_back
from perstackd.app.run_stay import Stay
from perstackd.app.run_tasks import RunHost, RunTasks
from perstackd.app.unforeseen import unforeseen
from perstackd.domain.assignment import own_skills
from perstackd.domain.commands import Command, Elicited, Fail, Generate, Generated, Park, Resume
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import (
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    CallTools,
    CompactionFailed,
    ContextCompacted,
    ElicitationRequested,
    InitializeRuntime,
    QuestionAnswered,
    QuestionKind,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartGeneration,
    StartRun,
    StopRunByInteractiveTool,
)
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.run_state import Outcome, Phase, RunEnd, RunState
from perstackd.domain.session import (
    Ask,
    BlobChunk,
    Elicit,
    ElicitAnswer,
    Failure,
    Hello,
    LinkLost,
    NextTurn,
    ProbeResult,
    Progress,
    Ready,
    Refused,
    SkillReport,
    ToolResults,
)
from perstackd.domain.tool_calls import pending_delegations
from perstackd.ports.egress import EgressAccess

_log = structlog.get_logger()


class RunWorker:
    """One run. `run` is called once. `state` is that of a run which an earlier process began."""

    def __init__(
        self, services: RunServices, context: JobContext, plan: RunPlan, host: RunHost, state: RunState | None = None
    ) -> None:
        self._ledger = RunLedger(services, context, plan, state or RunState())
        self.plan = plan
        self._stay: Stay | None = None
        self._services = services
        self._context = context
        self._host = host
        self._own = frozenset(skill.name for skill in own_skills(plan.expert))
        self._opening = Opening(services, context, plan)
        self._fence = plan.fence
        self._gathered = False
        self._losses = Losses()
        self._wave = CallWave(self._own, self.state)
        self.inbox = RunInbox(plan.run_id)
        self._tasks = RunTasks(services, context, plan, self.inbox, lambda: self.state)

    async def run(self) -> RunEnd:
        """Go on until the run has ended; its end is in the log by then. An error that nobody foresaw ends this run
        alone, with a log id. Raises PerstackError when the log cannot be written, and any while the job is left.

        Cancelled from outside, it records the context's stop order, gives everything back, and passes the
        cancellation on.
        """
        try:
            async with single_errors(), self._tasks.group:
                await self._live()
                self._tasks.group.cancel_scope.cancel()
        except PerstackError as error:
            if self._context.stop.command is None:
                raise  # the next process takes it up, and finds out by itself
            await self._ledger.record(Fail(error.reason, error.message))
        except Exception as error:
            told = unforeseen(self._services.clock, error, run_id=self.plan.run_id)
            await self._ledger.record(Fail("internal", told.message))
        except anyio.get_cancelled_exc_class():
            if self._context.stop.command is not None:
                with anyio.CancelScope(shield=True):
                    await self._ledger.record(self._context.stop.command)
            raise
        finally:
            self._leave()
            self._context.standing.forget(self.plan.run_id)
            self.inbox.close()
        if self.state.end is None:
            raise RuntimeError(f"run {self.plan.run_id} returned before its end")
        return self.state.end

    @property
    def state(self) -> RunState:
        """What its durable facts add up to."""
        return self._ledger.state

    @property
    def party(self) -> RunParty | None:
        """Its sandboxes, while it has some."""
        return self._stay.party if self._stay is not None else None

    @property
    def claimed(self) -> bool:
        """Whether it has, or had, a sandbox."""
        return self._gathered or self._stay is not None

    def holds(self, sandbox_id: str) -> bool:
        """Whether the sandbox is one of this run's."""
        return self.party is not None and self.party.holds(sandbox_id)

    # --- a life -----------------------------------------------------------------------------------------------------
    async def _live(self) -> None:
        self._ledger.tell()
        self._opening.recall(fixed=self.state.phase is not Phase.INIT)
        party = await come_back(self._services, self._context, self.plan, self.state.step)
        if party is not None:
            await self._dwell(Stay(party, self._opening, self.inbox), returned=True)
        while self.state.end is None:
            if self.state.phase is Phase.ASKING:
                await self._wait_for_people()
            else:
                await self._inhabit()

    async def _wait_for_people(self) -> None:
        """Without a sandbox, for as long as it takes."""
        await self._ledger.flush()
        while self.state.phase is Phase.ASKING:
            await self._take(await self.inbox.next())

    async def _inhabit(self) -> None:
        """In sandboxes, until the run ends, one of them is lost, or only people are waited for."""
        party = RunParty(self._services, self._context, self.plan)
        self._fence += 1
        await party.gather(self._fence, self._host.waiting)
        self._gathered = True
        await self._dwell(Stay(party, self._opening, self.inbox))

    async def _dwell(self, stay: Stay, *, returned: bool = False) -> None:
        self._stay = stay
        stay.party.release_secrets()
        async with single_errors(), anyio.create_task_group() as inside:
            if returned:
                stay.go_on(inside)
                await self._go_on(stay)
            else:
                stay.begin(inside, self.state.step, admit=self.plan.depth == 0 and self._fence == 1)
            while self.state.end is None and not stay.over:
                await self._take(await stay.next(self._ledger.flush))
            inside.cancel_scope.cancel()
        await stay.finish(self.state.end.outcome.value if self.state.end is not None else "parked")
        self._leave()

    def _leave(self) -> None:
        """Have the sandboxes given back beside whoever waits for the run's end; the job ends after it. A run that is
        only interrupted finds them again.
        """
        stay, self._stay = self._stay, None
        if stay is None:
            return
        if self.state.end is None and not stay.over and self._context.stop.command is None:
            stay.party.leave_behind()
        elif stay.party.members:
            cancelled = self.state.end is None or self.state.end.outcome is Outcome.CANCELLED
            cancelled = cancelled and not stay.over
            unheard = [*self._ledger.unwritten(), *(self.inbox.unheard() if self.state.end is not None else ())]
            unheard = [self._context.scrubber.value(payload) for payload in unheard]
            self._host.later(stay.party, partial(stay.party.give_back, self.state.step, unheard, cancelled=cancelled))

    # --- asks -------------------------------------------------------------------------------------------------------
    async def _take(self, item: Item) -> None:
        match item:
            case Settled():
                pass
            case EgressAccess():
                self._ledger.note(self._context.scrubber.value(access_event(item)))
            case Heard():
                await self._heard(item.member, item.ask, item.position)
            case Overdue(member=member):
                await self._lose(member)
            case Told():
                await self._told(item)
            case Finished(outcome=outcome, free=free):
                free()
                if isinstance(outcome, LookedUp):
                    await self._came_back(outcome.results if outcome.step == self.state.step else ())
                else:
                    await self._carry_out(outcome)
            case _:
                assert_never(item)

    async def _told(self, item: Told) -> None:
        try:
            item.taken = bool(await self._carry_out(item.command))
        except PerstackError as error:
            item.error = error
        finally:
            item.done.set()

    async def _heard(self, member: RunMember, ask: Ask, position: int) -> None:
        if self.party is None or self.party.members.get(member.place) is not member:
            return  # the word of a sandbox that was given back: its fence is not the run's any more
        if member.repeats(ask):
            self._ledger.after(member.lease.link.acknowledge, member.took(position, unstored=False))
            return
        refusal = member.hear(ask)
        if not refusal:
            part = isinstance(ask, ToolResults | BlobChunk)  # of what is written once the whole wave is there
            self._ledger.after(member.lease.link.acknowledge, member.took(position, unstored=part))
            for said in member.said.heard(ask):  # without secret values
                await self._act(member, said)
        elif member.session.misbehaved:
            await self._carry_out(Fail("runner_misbehaved", f"the sandbox broke its protocol: {refusal}"))
        else:
            _log.warning("ask refused", run_id=self.plan.run_id, refusal=refusal)
            await member.order(Refused(refusal))

    async def _act(self, member: RunMember, ask: Ask) -> None:  # noqa: C901 - one case an ask
        match ask:
            case Ready(workspace_path=path):
                version = member.lease.hello.runner_version
                self._ledger.note(*member.news(InitializeRuntime(member.lease.record.id, version, path[:256])))
            case SkillReport():
                self._ledger.note(*member.news(*self._opening.heard(ask)))
                await self._try_to_open()
            case NextTurn():
                await self._try_to_open()
                await self._deliver()
            case ToolResults(results=results):
                await self._came_back(await member.blobs.checked(results))
            case Progress():
                self._ledger.show(ask)
            case BlobChunk():
                await member.blobs.take(ask)
            case Elicit():
                await self._elicited(member, ask)
            case Failure(reason=reason, message=message):
                await self._carry_out(Fail("runner_failed", f"{member.name} gave up: {reason[:64]}: {message[:500]}"))
            case LinkLost():
                await self._lose(member)
            case Hello() | ProbeResult():
                raise RuntimeError(f"{type(ask).__name__} is never legal once claimed")
            case _:
                assert_never(ask)

    async def _try_to_open(self) -> None:
        """Begin, or go on where an earlier sandbox ended, once every skill is known and the loop asks for a turn."""
        if self._opening.failed is not None:
            await self._carry_out(self._opening.failed)
        stay = self._stay
        if stay is None or stay.open or self.state.end is not None or stay.party.expert.session.state != "waiting":
            return
        if self.state.phase is Phase.INIT and not self._opening.complete:
            return
        stay.open = True
        if self.state.phase is Phase.INIT:
            await self._carry_out(self._opening.begin(self.state.start))
        elif self.state.phase is not Phase.CALLING or not self._wave.is_in(stay.party):  # else they have its calls
            await self._carry_out(self._resumption())
        self._revive()
        await self._deliver()

    def _resumption(self) -> Resume | Generate:
        if self.state.phase is not Phase.CALLING:
            return Generate()
        return Resume(self._losses.last, self._wave.results, self._wave.untouched(self.state))

    async def _go_on(self, stay: Stay) -> None:
        """Where a restart interrupted it: nothing is begun anew that its sandboxes may be at."""
        stay.open = True
        if self.state.phase is Phase.ASKING:
            self._tasks.hold(self._context.limits.ask_hold_ms)
        elif self.state.phase is Phase.CALLING and self.plan.sandboxes.dispatched:
            self._tasks.look_up(self._wave.go_on(self.state, stay.party))
        else:
            await self._carry_out(self._resumption())
        self._revive()
        await self._deliver()

    def _revive(self) -> None:
        """Start again what waited for nobody else when the sandboxes were lost."""
        match self.state.phase:
            case Phase.GENERATING | Phase.RESULT:
                self._tasks.generate()
            case Phase.DELEGATING:
                self._tasks.delegate(pending_delegations(self.state), self._host.delegate)
            case _:
                pass

    async def _lose(self, member: RunMember) -> None:
        """The run goes on in fresh sandboxes, unless it loses one after the other in the same step."""
        if self._stay is None:
            return
        self._stay.lost = True
        failure = await self._losses.add(self._stay.party, member, self.state.step)
        if failure is not None:
            await self._carry_out(failure)

    async def _came_back(self, results: Sequence[ToolResultPart]) -> None:
        answered = self._wave.came_back(self.state, results)
        if answered is None:
            return
        for member in self.party.members.values() if self.party is not None else ():
            self._ledger.after(member.lease.link.acknowledge, member.stored())
        await self._carry_out(answered)

    async def _elicited(self, member: RunMember, ask: Elicit) -> None:
        fence = member.lease.record.fence
        facts = await self._carry_out(Elicited(ask.call_id, ask.elicitation, ask.message, ask.schema, fence))
        if not any(isinstance(fact, ElicitationRequested) for fact in facts):
            await member.order(ElicitAnswer(ask.elicitation, "decline"))

    # --- facts ------------------------------------------------------------------------------------------------------
    async def _carry_out(self, command: Command) -> Sequence[RunPayload]:
        if isinstance(command, Park) and self.party is None:
            return ()  # there is nothing to give up
        if isinstance(command, Generated):
            command = self._ledger.noted(command)
        before = self.state
        facts = await self._ledger.record(command)
        for fact in facts:
            await self._follow(before, fact)
        if facts:
            await self._deliver()
        self._tasks.compact()
        return facts

    async def _follow(self, before: RunState, fact: RunPayload) -> None:
        """What a durable fact sets going."""
        match fact:
            case StartRun() if names := renamed(fact):
                self._ledger.note(*names)
            case StartGeneration():
                self._tasks.generate()
            case Retry(delay_ms=delay) | CompactionFailed(delay_ms=delay, given_up=False):
                self._tasks.retry(delay)
            case CallTools() | ResumeToolCalls() if self.state.phase is Phase.CALLING:
                self._tasks.look_up(self._wave.start(self.state, self.party))
            case CallDelegate(calls=calls):
                self._tasks.delegate(calls, self._host.delegate)
            case AttemptCompletion() | ContextCompacted() if self.state.phase is Phase.RESULT:
                self._tasks.generate()
            case QuestionAnswered(kind=QuestionKind.ELICITATION):
                await self._pass_on(before, fact)
            case CallInteractiveTool() | ApprovalRequested() if self.party is not None:
                self._tasks.hold(self._context.limits.ask_hold_ms)
            case StopRunByInteractiveTool() if self._stay is not None:
                self._stay.parked = True
            case _:
                pass

    async def _deliver(self) -> None:
        if self.party is not None and self.state.phase is Phase.CALLING:
            await self._wave.deliver(self.party)

    async def _pass_on(self, before: RunState, fact: QuestionAnswered) -> None:
        """A person's answer to the server that asked."""
        question = next(question for question in before.questions if question.id == fact.id)
        number = int(question.id.rpartition("e")[2])
        place = question.skill if question.skill in self._own else ""
        if self.party is not None:
            await self.party.members[place].order(ElicitAnswer(number, fact.action, fact.content))
