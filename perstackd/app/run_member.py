"""One sandbox of a run: its session, its patience, its uploads. What an ask means is the run worker's affair."""

from dataclasses import replace

import structlog

from perstackd.app.blob_intake import BlobIntake
from perstackd.app.run_context import RunLimits
from perstackd.app.run_patience import Patience
from perstackd.app.scrubbing import AskScrubber, Scrubber
from perstackd.app.warm_pool import Lease
from perstackd.domain.assignment import ServedSkill
from perstackd.domain.dispatch import EXPERT
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import InitializeRuntime, Payload, SandboxReleased
from perstackd.domain.run_sandboxes import Held, RunSandboxes
from perstackd.domain.session import (
    Ask,
    Assign,
    Elicit,
    ElicitAnswer,
    LinkLost,
    NextTurn,
    Order,
    ProbeResult,
    RoutedCall,
    Session,
    ToolResults,
    TurnOrder,
    asked,
    ordered,
)
from perstackd.ports.event_store import Blobs

_log = structlog.get_logger()


class RunMember:
    """The sandbox of the expert itself (`skill` is None), or of one skill that has its own."""

    def __init__(
        self,
        lease: Lease,
        skill: ServedSkill | None,
        limits: RunLimits,
        patience: Patience,
        blobs: Blobs,
        *,
        scrubber: Scrubber,
    ) -> None:
        self.lease = lease
        self.skill = skill
        self.session = Session("idle")
        self.blobs = BlobIntake(blobs, limits.result_bytes, scrubber=scrubber)
        self.said = AskScrubber(scrubber)
        self.lost: LinkLost | None = None
        self.silent = False
        self._heard = 0
        self._kept: int | None = None
        self._patience = patience
        self._calls: tuple[RoutedCall, ...] = ()
        self._told: list[Payload] = []
        self._began = False
        self._asked: dict[int, ElicitAnswer | None] = {}

    @property
    def place(self) -> str:
        """EXPERT, or the skill's name."""
        return EXPERT if self.skill is None else self.skill.name

    @property
    def settled(self) -> bool:
        """Whether it was told whose it is."""
        return self.session.state != "idle"

    @property
    def deadline(self) -> float:
        """When its silence is too long, by the event loop's clock."""
        return self._patience.deadline

    def hear(self, ask: Ask) -> str:
        """Take note of an ask; why it was refused, empty when it is legal."""
        self.session, refusal = asked(self.session, ask)
        self._patience.watch(self.session)
        if isinstance(ask, LinkLost):
            self.lost = ask
        if isinstance(ask, ToolResults) and not refusal:
            answered = {result.call_id for result in ask.results}
            self._calls = tuple(call for call in self._calls if call.call_id not in answered)
        return refusal

    # --- after a restart --------------------------------------------------------------------------------------------
    def go_on(self, held: Held, sandboxes: RunSandboxes) -> None:
        """Take up the session of before a restart, as the log tells of it."""
        asked = [(number, answer) for call_id, number, answer in sandboxes.answers if call_id in held.calls]
        self._asked = {
            number: ElicitAnswer(number, answer.action, answer.content) if answer is not None else None
            for number, answer in asked
        }
        self._told = list(sandboxes.told)
        unanswered = tuple(number for number, answer in asked if answer is None)
        highest = max(self._asked, default=0)
        self.session = Session("returned", held.step, held.calls, elicitations=unanswered, elicited=highest)

    async def remind(self, assign: Assign) -> None:
        """Send it again what it may not have got; what it has got, it leaves aside."""
        self.session = replace(self.session, skills=tuple(skill.name for skill in assign.skills))
        await self._send(assign)
        for answer in tuple(self._asked.values()):
            if answer is not None:
                await self._send(answer)
        self._patience.watch(self.session)

    def repeats(self, ask: Ask) -> bool:
        """Whether it says again, after a restart, what is stored: it was not told so. Each is believed once."""
        returned = self.session.state == "returned"
        match ask:
            case ProbeResult():
                return returned  # of the time before it was claimed
            case NextTurn(step=step) | ToolResults(step=step):
                return returned and step < self.session.step
            case Elicit(elicitation=number) if number in self._asked:
                del self._asked[number]
                return True
            case _:
                return False

    def news(self, *payloads: Payload) -> tuple[Payload, ...]:
        """Those that are not in the log from before a restart; its start is told once, however often it says so."""
        fresh: list[Payload] = []
        for payload in payloads:
            if payload in self._told:
                self._told.remove(payload)
            elif not isinstance(payload, InitializeRuntime) or not self._began:
                fresh.append(payload)
            self._began = self._began or isinstance(payload, InitializeRuntime)
        return tuple(fresh)

    def took(self, position: int, *, unstored: bool) -> int:
        """An ask at `position` was taken. Returns up to where the runner may forget once all that is known now is
        written; with `unstored` it must keep this one, and all after it, until `stored`.
        """
        if unstored and self._kept is None:
            self._kept = self._heard
        self._heard = max(self._heard, position)
        return self._heard if self._kept is None else self._kept

    def stored(self) -> int:
        """What it had to keep is about to be written, with all that is known now; returns as `took` does."""
        self._kept = None
        return self._heard

    async def order(self, order: Order) -> None:
        """Send an order. A lost link is told by LinkLost, which the listener is about to read."""
        self.session = ordered(self.session, order)
        self._patience.watch(self.session)
        await self._send(order)

    async def _send(self, order: Order) -> None:
        try:
            await self.lease.link.send(order)
        except PerstackError as error:
            _log.info("order not delivered", reason=error.reason, sandbox_id=self.lease.record.id)

    def give(self, calls: tuple[RoutedCall, ...]) -> None:
        """Calls for it, to be delivered when it asks."""
        self._calls = (*self._calls, *calls)

    async def deliver(self) -> tuple[str, ...]:
        """Hand over the calls that it was given, once it waits for some; the ids of those that went."""
        if not self._calls or self.session.state != "waiting":
            return ()
        calls, self._calls = self._calls, ()
        await self.order(TurnOrder(self.session.step, calls))
        return tuple(call.call_id for call in calls)

    def known_cause(self, *, cancelled: bool) -> tuple[str, str] | None:
        """Why the sandbox ends, with a detail; None when only the engine can tell."""
        if self.silent:
            return "misbehaved", "it did not go on in time"
        if self.session.misbehaved:
            return "misbehaved", ""
        if self.lost is None:
            return ("cancelled" if cancelled else "finished"), ""
        return None

    def released(self, cause: str, detail: str) -> SandboxReleased:
        """The event of its end."""
        return SandboxReleased(self.lease.record.id, cause, detail)

    @property
    def name(self) -> str:
        """How messages name it."""
        owner = "" if self.skill is None else f" of the skill {self.skill.name!r}"
        return f"the sandbox {self.lease.record.id}{owner}"
