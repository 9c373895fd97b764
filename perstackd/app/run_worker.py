"""Runs one expert: claims a sandbox, feeds the law of the run with what the sandbox asks and what models and children
answer, and carries out what follows.

Above it is the job's worker, which may cancel it at any point; below are the pool, the sandbox's link, the models and
the log. One task reads the link, model calls and children run in tasks of their own; all commands meet in one bounded
inbox, so that decisions are made one after the other. Shutdown order: tasks, workspace and sandbox (by the pool),
then the caller.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias, assert_never

import anyio
import structlog
from anyio.abc import TaskGroup

from perstackd.app.blob_intake import BlobIntake
from perstackd.app.errors import single_errors
from perstackd.app.generation import generate
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_opening import Opening, assign, start_run
from perstackd.app.run_patience import Patience
from perstackd.app.run_sandbox import RunSandbox
from perstackd.app.unforeseen import unforeseen
from perstackd.app.warm_pool import Lease
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import (
    AttemptCompletion,
    CallDelegate,
    CallTools,
    DelegateCall,
    EgressDenied,
    InitializeRuntime,
    Payload,
    ProxyAccess,
    Retry,
    RunPayload,
    StartGeneration,
    StreamPiece,
)
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.run import (
    Begin,
    Cancel,
    ChildrenAnswered,
    Command,
    Exhaust,
    Fail,
    Generate,
    Generated,
    GenerationFailed,
    Outcome,
    Phase,
    RunEnd,
    RunState,
    SandboxAnswered,
    decide,
    evolve,
)
from perstackd.domain.session import (
    Ask,
    BlobChunk,
    Failure,
    Finish,
    Hello,
    LinkLost,
    NextTurn,
    Order,
    ProbeResult,
    Progress,
    Ready,
    Refused,
    Session,
    SkillReport,
    ToolResults,
    TurnOrder,
    asked,
    ordered,
)
from perstackd.domain.turn_order import turn_order
from perstackd.ports.egress import EgressAccess

Item: TypeAlias = Ask | Command | EgressAccess
Delegate: TypeAlias = Callable[[RunPlan, DelegateCall], Awaitable[ToolResultPart]]


@dataclass(frozen=True, slots=True)
class RunHost:
    """What a run asks of its job: to run a child, to be told its place while it waits, to give a sandbox back later."""

    delegate: Delegate
    waiting: Callable[[int, str], None]
    later: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


MAX_ACCESSES: Final = 500  # connections of one run that its events tell of: a sandbox must not fill the store
_COMMANDS = (Begin, Generate, Generated, GenerationFailed, SandboxAnswered, ChildrenAnswered, Cancel, Fail, Exhaust)
_log = structlog.get_logger()


class RunWorker:
    """One run. `run` is called once."""

    def __init__(
        self,
        services: RunServices,
        context: JobContext,
        plan: RunPlan,
        host: RunHost,
    ) -> None:
        self.state = RunState()
        self.plan = plan
        self._services = services
        self._context = context
        self._host = host
        self._sandbox = RunSandbox(services, context, plan)
        self._session = Session("idle")
        self._opening = Opening()
        self._patience = Patience(context.limits, plan.expert)
        self._blobs = BlobIntake(services.blobs, context.limits.result_bytes)
        self._turn: TurnOrder | None = None
        self.sandbox_id = ""
        self._silent = False
        self._accesses = 0
        self._send, self._inbox = anyio.create_memory_object_stream[Item](64)

    async def run(self) -> RunEnd:
        """Go on until the run has ended; its end is in the log by then. An error that nobody foresaw ends this run
        alone, with a log id. Raises PerstackError when the log cannot be written.

        Cancelled from outside, it records the context's stop order, gives everything back, and passes the
        cancellation on.
        """
        lease: Lease | None = None
        try:
            lease = await self._sandbox.claim(self._host.waiting)
            await self._work(lease)
        except PerstackError as error:
            await self._record(Fail(error.reason, error.message))
        except Exception as error:
            told = unforeseen(self._services.clock, error, run_id=self.plan.run_id)
            await self._record(Fail("internal", told.message))
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._record(self._context.stop.command)
            raise
        finally:
            if lease is not None:  # beside whoever waits for the run's end; the job ends after it
                give_back = self._sandbox.give_back
                step, known = self.state.step, self._known_cause()
                self._host.later(partial(give_back, lease, known, step, self._unheard()))
            self._send.close()
            self._inbox.close()
        return self._ended()

    @property
    def claimed(self) -> bool:
        """Whether it has, or had, a sandbox."""
        return bool(self.sandbox_id)

    def saw(self, access: EgressAccess) -> None:
        """The sandbox tried to connect somewhere. Recorded in order; what comes too fast or too often goes to the
        log only.
        """
        self._accesses += 1
        try:
            if self._accesses > MAX_ACCESSES:
                raise anyio.WouldBlock
            self._send.send_nowait(access)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            _log.warning("egress access not recorded", run_id=self.plan.run_id, host=access.host)

    def _ended(self) -> RunEnd:
        if self.state.end is None:
            raise RuntimeError(f"run {self.plan.run_id} returned before its end")
        return self.state.end

    # --- the sandbox ------------------------------------------------------------------------------------------------
    def _unheard(self) -> list[Payload]:
        """Connections that were told of while the run's last command was carried out."""
        waiting = range(self._inbox.statistics().current_buffer_used)
        items = [self._inbox.receive_nowait() for _ in waiting]
        return [_access_event(item) for item in items if isinstance(item, EgressAccess)]

    def _known_cause(self) -> tuple[str, str] | None:
        """Why the sandbox ends; None when only the engine can tell."""
        if self._silent:
            return "misbehaved", "it did not go on in time"
        if self._session.misbehaved:
            return "misbehaved", ""
        if self._opening.lost is None:
            cancelled = self.state.end is None or self.state.end.outcome is Outcome.CANCELLED
            return ("cancelled" if cancelled else "finished"), ""
        return None

    async def _work(self, lease: Lease) -> None:
        self.sandbox_id = lease.record.id
        await self._sandbox.move_in(lease)
        async with single_errors(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, lease)
            await self._order(lease, assign(self._context, self.plan, lease, self._services.base_tools))
            while self.state.end is None:
                await self._take(lease, tasks, await self._next(lease))
            tasks.cancel_scope.cancel()
        await self._farewell(lease)

    async def _next(self, lease: Lease) -> Item:
        """What comes next; the run's failure when the sandbox lets its time pass."""
        with anyio.CancelScope(deadline=self._patience.deadline):
            return await self._inbox.receive()
        self._silent = True
        waited = f"the sandbox {lease.record.id} did not go on in time while it was {self._session.state}"
        return Fail(
            "sandbox_silent", f"{waited}; see what its tools do, or raise tool_timeout_ms, and start the job again"
        )

    async def _listen(self, lease: Lease) -> None:
        async for ask in lease.link.asks():
            await self._send.send(ask)

    async def _farewell(self, lease: Lease) -> None:
        await self._order(lease, Finish(self._ended().outcome.value))

    async def _order(self, lease: Lease, order: Order) -> None:
        """A lost link is told by LinkLost, which the listener is about to read."""
        self._session = ordered(self._session, order)
        self._patience.watch(self._session)
        try:
            await lease.link.send(order)
        except PerstackError as error:
            _log.info("order not delivered", reason=error.reason, run_id=self.plan.run_id)

    # --- asks -------------------------------------------------------------------------------------------------------
    async def _take(self, lease: Lease, tasks: TaskGroup, item: Item) -> None:
        if isinstance(item, EgressAccess):
            await self._note(_access_event(item))
        elif isinstance(item, _COMMANDS):
            await self._carry_out(lease, tasks, item)
        else:
            self._session, refusal = asked(self._session, item)
            self._patience.watch(self._session)
            if not refusal:
                await self._hear(lease, tasks, item)
                lease.link.acknowledge()
            elif self._session.misbehaved:
                await self._carry_out(
                    lease, tasks, Fail("runner_misbehaved", f"the sandbox broke its protocol: {refusal}")
                )
            else:
                _log.warning("ask refused", run_id=self.plan.run_id, refusal=refusal)
                await self._order(lease, Refused(refusal))

    async def _hear(self, lease: Lease, tasks: TaskGroup, ask: Ask) -> None:
        match ask:
            case Ready(workspace_path=path):
                await self._note(InitializeRuntime(lease.record.id, lease.hello.runner_version, path[:256]))
            case SkillReport():
                await self._note(*self._opening.heard(ask))
            case Progress():
                self._show(ask)
            case BlobChunk():
                await self._blobs.take(ask)
            case Hello() | ProbeResult():
                raise RuntimeError(f"{type(ask).__name__} is never legal once claimed")
            case NextTurn() | ToolResults() | Failure() | LinkLost():
                pass
            case _:
                assert_never(ask)
        command = await self._command(lease, ask)
        if command is not None:
            await self._carry_out(lease, tasks, command)
        elif isinstance(ask, NextTurn):
            await self._deliver(lease)

    async def _command(self, lease: Lease, ask: Ask) -> Command | None:
        """What an ask means for the run; None when it means nothing by itself."""
        match ask:
            case SkillReport():
                return self._opening.failed
            case NextTurn() if self.state.phase is Phase.INIT:
                return start_run(self._context, self.plan, self._services.base_tools, self._opening.served)
            case ToolResults(results=results):
                return SandboxAnswered(self._blobs.checked(results))
            case Failure(reason=reason, message=message):
                return Fail("runner_failed", f"the sandbox gave up: {reason[:64]}: {message[:500]}")
            case LinkLost():
                self._opening.lost = ask
                cause, detail = await self._sandbox.cause(lease)
                message = f"the sandbox {lease.record.id} ended during the run ({cause}: {detail}); start the job again"
                return Fail("sandbox_lost", message)
            case _:
                return None

    def _show(self, progress: Progress) -> None:
        record, origin = self._context.log.record, self.plan.origin(self.state.step)
        self._context.log.stream(
            StreamPiece(
                record.last_seq,
                progress.call_id,
                progress.offset,
                "streamToolOutput",
                record.id,
                origin,
                progress.delta,
                progress.call_id,
            )
        )

    async def _deliver(self, lease: Lease) -> None:
        """Hand over the turn's calls once there is a turn and the runner asked for it, whichever came last."""
        turn = self._turn if self.state.end is None else None
        if turn is not None and self._session.state == "waiting" and self._session.step == turn.step:
            self._turn = None
            await self._order(lease, turn)

    # --- facts ------------------------------------------------------------------------------------------------------
    async def _carry_out(self, lease: Lease, tasks: TaskGroup, command: Command) -> None:
        for step, fact in await self._record(command):
            self._start(tasks, fact, step)
        await self._deliver(lease)

    async def _record(self, command: Command) -> Sequence[tuple[int, RunPayload]]:
        """Decide, write, then believe: the state changes only once its facts are durable. Returns (step, fact)."""
        state, facts = self.state, []
        for fact in decide(state, command, self._context.log.tally):
            facts.append((state.step, fact))
            state = evolve(state, fact)
        entries = [(self.plan.origin(step), fact) for step, fact in facts]
        used, before = state.usage, self.state.usage
        await self._context.log.append(entries, lambda record: replace(record, usage=record.usage + (used - before)))
        self.state = state
        return facts

    async def _note(self, *payloads: Payload) -> None:
        origin = self.plan.origin(self.state.step)
        await self._context.log.append([(origin, payload) for payload in payloads])

    def _start(self, tasks: TaskGroup, fact: RunPayload, step: int) -> None:
        match fact:
            case StartGeneration():
                tasks.start_soon(self._generate)
            case Retry(delay_ms=delay):
                tasks.start_soon(self._retry, delay)
            case CallTools(turn=turn) if self.state.start is not None:
                self._turn = turn_order(self.state.start, turn, step)
            case CallDelegate(calls=calls):
                tasks.start_soon(self._delegate_all, calls)
            case AttemptCompletion() if self.state.phase is Phase.RESULT:
                tasks.start_soon(self._generate)
            case _:
                pass

    async def _generate(self) -> None:
        await self._send.send(await generate(self._services, self._context, self.plan, self.state))

    async def _retry(self, delay_ms: int) -> None:
        await anyio.sleep(delay_ms / 1000)
        if self.state.phase is Phase.RESULT:
            await self._generate()
        else:
            await self._send.send(Generate())

    async def _delegate_all(self, calls: tuple[DelegateCall, ...]) -> None:
        results: list[ToolResultPart | None] = [None] * len(calls)

        async def one(place: int, call: DelegateCall) -> None:
            results[place] = await self._host.delegate(self.plan, call)

        async with anyio.create_task_group() as children:
            for place, call in enumerate(calls):
                children.start_soon(one, place, call)
        await self._send.send(ChildrenAnswered(tuple(result for result in results if result is not None)))


def _access_event(access: EgressAccess) -> Payload:
    if not access.allowed:
        return EgressDenied(access.host[:255], access.port, access.reason)
    return ProxyAccess(access.host[:255], access.port, access.bytes_up, access.bytes_down, access.duration_ms)
