"""Acts on the planner's actions. Every change of the pools is made on the event loop, between two awaits."""

import asyncio
from collections import deque
from dataclasses import replace
from functools import partial
from typing import assert_never

import structlog

from perstackd.app.warm_pool.crew import Crew
from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.roster import Member, Roster
from perstackd.app.warm_pool.starting import LateBindingError, Starter
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.app.warm_pool.waiting import Desk
from perstackd.app.warm_pool.wiring import PoolPorts
from perstackd.domain import pool
from perstackd.domain.adoption import adopted
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import Action, Expire, Halt, Hand, PoolState, Seat, Stage, Start
from perstackd.domain.pool_plan import plan
from perstackd.domain.pool_size import sized
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template

_log = structlog.get_logger()
_NOWHERE = SandboxId("")


class Keeper:
    """Starts, hands out and watches; `endings` removes. Nothing is begun once `closed` is set.

    `refused` says for which templates late binding was disproved, and why. `settled` is set once each template's
    first sandbox has started, failed, or disproved late binding; where one was adopted, once the removal of the other
    left-overs was tried.
    """

    def __init__(self, ports: PoolPorts, roster: Roster, crew: Crew, starter: Starter, endings: Endings) -> None:
        self.desk = Desk(roster)
        self.refused: dict[str, str] = {}
        self.settled = asyncio.Event()
        self.closed = False
        self._ports = ports
        self._roster = roster
        self._crew = crew
        self._starter = starter
        self._endings = endings
        self._endings.changed = self.advance
        self._turns = deque(roster.templates)

    def advance(self) -> None:
        """Plan and act for every pool, each time another one first, then tell waiting claims their places."""
        if self.closed:
            return
        self._turns.rotate(-1)
        now, templates = self._ports.clock.monotonic(), self._roster.templates
        for name, state in self._roster.states.items():
            self._roster.states[name] = sized(state, templates[name], now)
        for name, action in plan(self._roster.states, templates, now, self._turns):
            self._act(templates[name], action, now)
        self.desk.report(templates)
        states = self._roster.states.items()
        if all(
            (state.proven and not state.blocked) or state.failures or name in self.refused for name, state in states
        ):
            self.settled.set()

    def lost(self, member: Member, why: str) -> None:
        """An idle sandbox is not what it was."""
        if member.record.state is not SandboxState.IDLE:
            return
        now, name = self._ports.clock.monotonic(), member.template.name
        _log.warning("idle sandbox lost", sandbox_id=member.id, template=name, why=why)
        self._count(name, pool.lost(self._roster.states[name], member.id, f"sandboxes are lost while idle: {why}", now))
        self._endings.begin(member, "it was lost while idle")
        self.advance()

    def adopted(self, member: Member) -> None:
        """A sandbox of an earlier daemon was verified again; `advance` is the caller's."""
        name = member.template.name
        self._roster.states[name] = adopted(self._roster.states[name], member.id, self._ports.clock.monotonic())
        self._keep(member)

    # --- actions ----------------------------------------------------------------------------------------------------
    def _act(self, template: Template, action: Action, now: float) -> None:
        states, name = self._roster.states, template.name
        match action:
            case Hand():
                states[name] = pool.handed(states[name], action, now)
                self._hand(action)
                self._crew.run("pool-wake", partial(self._wake, states[name].calm_until))
            case Expire(sandbox_id=sandbox_id):
                self._endings.begin(self._roster.members[sandbox_id], "nobody will claim it")
            case Halt(reason=reason, until=until):
                states[name] = pool.halted(states[name], action)
                _log.error("pool halted", template=name, seconds=until - now, reason=reason)
            case Start():
                self._launch(template, action, now)
            case _:
                assert_never(action)

    def _hand(self, action: Hand) -> None:
        member = self._roster.members[action.sandbox_id]
        member.verified.link.unwatch()
        member.become(SandboxState.CLAIMED)
        self.desk.serve(action.claim_id, member)

    def _launch(self, template: Template, action: Start, now: float) -> None:
        try:
            for _ in range(action.count):
                self._launch_one(template, action, now, self._roster.free_uid())
        except PerstackError as error:
            self._count(template.name, pool.failed(self._roster.states[template.name], _NOWHERE, error.message, now))

    def _launch_one(self, template: Template, action: Start, now: float, uid: int) -> None:
        sandbox_id = SandboxId(self._ports.clock.new_id())
        created_at = self._ports.clock.now_ms()
        record = SandboxRecord(sandbox_id, template.name, SandboxState.STARTING, uid, created_at, template.runtime)
        member = Member(record, template, began=now)
        self._roster.add(member, Seat(sandbox_id, Stage.STARTING, now, action.level, action.job_id, action.run_id))
        self._crew.run(f"start-{sandbox_id}", lambda: self._start(member))

    def _count(self, name: str, state: PoolState) -> None:
        """Take over a state with a failure more, and look again when its pause is over."""
        self._roster.states[name] = state
        self._crew.run("pool-wake", lambda: self._wake(state.retry_at))

    # --- tasks ------------------------------------------------------------------------------------------------------
    async def _start(self, member: Member) -> None:
        try:
            prove = not self._roster.states[member.template.name].proven
            await self._starter.start(member, prove=prove)
        except LateBindingError as refusal:
            self._refuse(member, refusal.why)
        except PerstackError as error:
            self._failed(member, error.message)
        except OSError as error:
            self._failed(member, f"the host refused: {error}")
        except Exception as error:
            # A bug behind a port must not end the pool: the sandboxes that run are fine.
            _log.error("start failed in an unforeseen way", sandbox_id=member.id, error=place_of(error))
            self._failed(member, f"unforeseen {type(error).__name__}, see the log")
        else:
            self._started(member)
        self.advance()

    def _started(self, member: Member) -> None:
        now, name = self._ports.clock.monotonic(), member.template.name
        took = (now - member.began) * 1000
        self._roster.states[name] = pool.settled(self._roster.states[name], member.id, took, now)
        self._keep(member)

    def _keep(self, member: Member) -> None:
        self._roster.image_ids[member.template.name] = member.record.image_id
        self._endings.postures.put(member.verified.posture)
        member.verified.link.watch(lambda why: self.lost(member, why))

    def _failed(self, member: Member, reason: str) -> None:
        now, name = self._ports.clock.monotonic(), member.template.name
        differing = [check.name for check in member.posture.failed] if member.posture else []
        _log.warning("start failed", sandbox_id=member.id, template=name, reason=reason, differing=differing)
        if member.posture is not None:
            self._endings.postures.put(member.posture)
        self._count(name, pool.failed(self._roster.states[name], member.id, reason, now))
        self._endings.begin(member, "its start failed")

    def _refuse(self, member: Member, why: str) -> None:
        name = member.template.name
        _log.error("late binding disproved", template=name, why=why)
        self.refused[name] = why
        self._roster.states[name] = replace(self._roster.states[name], blocked=why)
        self._endings.begin(member, "late binding was disproved")
        self.desk.refuse(lambda waiter: name in waiter.templates, lambda: late_binding_unavailable(name, why))

    async def _wake(self, then: float) -> None:
        while (left := then - self._ports.clock.monotonic()) > 0:  # a loop's timer may fire a millisecond early
            await self._ports.sleep(left)
        self.advance()


def late_binding_unavailable(template: str, why: str) -> PerstackError:
    """What a claim is told when the proof said no."""
    return PerstackError(
        Kind.PRECONDITION,
        "late_binding_unavailable",
        f"no sandbox of the template {template!r} is handed out, because "
        f"a workspace cannot be attached to a running sandbox here: {why}",
        fields={"template": template},
    )
