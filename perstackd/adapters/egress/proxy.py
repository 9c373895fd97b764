"""The egress port: keeps every sandbox's listening socket and rules, and a perstack-egress process that serves them.

The sockets stay open here, so a process that dies loses its tunnels and no client: those that come meanwhile wait in
the backlog until the next process has its listeners and rules.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import TracebackType
from typing import Self

from perstack.v1 import egress_pb2 as pb

from perstackd.adapters.egress.channel import MAX_PACKET, Channel, ChannelLost, OrderRefused
from perstackd.adapters.egress.explained import explanation
from perstackd.adapters.egress.listening import bind, remove
from perstackd.adapters.egress.observers import Observers
from perstackd.adapters.egress.program import Launcher, ProgramOptions
from perstackd.adapters.egress.routes import OriginRoutes
from perstackd.adapters.egress.supervisor import START_SECONDS, Supervisor
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, EgressExplanation, EgressQuestion, EgressRule, Occupant


@dataclass(slots=True, eq=False)
class _Listener:
    """`policy` is what a new process is given: the last that was in force. It may hold secrets: never log it.
    `settled`: no order to change it is under way, or was given up. `served_by` has the socket. `used_bytes` is what its
    connections moved, as far as they were reported.
    """

    sandbox_id: SandboxId
    path: str
    listening: socket.socket
    policy: pb.EgressPolicy = field(default_factory=pb.EgressPolicy, repr=False)
    used_bytes: int = 0
    settled: bool = False
    served_by: Channel | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def tell(self, channel: Channel, policy: pb.EgressPolicy) -> None:
        """Give a process this policy, and the socket if it has it not yet. Raises as Channel.order."""
        if self.served_by is channel:
            await channel.order(pb.ToEgress(set_policy=pb.SetPolicy(sandbox_id=self.sandbox_id, policy=policy)))
            return
        # Marked before the wait: orders are carried out in their order, so the next one may count on it.
        self.served_by = channel
        listen = pb.Listen(sandbox_id=self.sandbox_id, policy=policy, used_bytes=self.used_bytes)
        await channel.order(pb.ToEgress(listen=listen), self.listening)


class EgressProxy:
    """Implements `perstackd.ports.egress.Egress`. An async context manager: it works inside `async with` only.

    `allow_addresses` are CIDR blocks of non-global addresses that every sandbox's allowed names may resolve to.
    `routes` are the operator's origin routes.
    `deadline` bounds each call, in seconds.

    Order at the end: no restarts, the process (and with it every tunnel), the sockets, the launcher's thread.
    """

    def __init__(
        self,
        *,
        allow_addresses: tuple[str, ...] = (),
        options: ProgramOptions | None = None,
        routes: OriginRoutes | None = None,
        deadline: float = 5.0,
    ) -> None:
        self._allow_addresses = _networks(allow_addresses)
        self._routes = routes or OriginRoutes()
        self._options = options or ProgramOptions()
        self._launcher = Launcher(self._options, routes=bool(self._routes))
        self._deadline = deadline
        self._binding = asyncio.Lock()
        self._listeners: dict[SandboxId, _Listener] = {}
        self._observers = Observers()
        self._supervisor = Supervisor(self._launcher, self._hand_over, self._heard)
        self._tasks = asyncio.TaskGroup()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = self._tasks.create_task(self._supervisor.run(), name="egress-supervisor")
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._supervisor.channel()
        except BaseException as error:
            await self.__aexit__(None, None, None)
            if isinstance(error, TimeoutError):
                raise _unavailable(f"perstack-egress did not start within {START_SECONDS:g} s: see its log") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.cancel()
        try:
            # An error of the body is not the group's; a cancellation may be its own.
            own = isinstance(error, asyncio.CancelledError)
            await self._tasks.__aexit__(*((kind, error, trace) if own else (None, None, None)))
        finally:
            listeners, self._listeners = self._listeners, {}
            for listener in listeners.values():
                listener.listening.close()
                await asyncio.to_thread(remove, listener.path)
            self._launcher.close()

    @property
    def pid(self) -> int | None:
        """Process id of the process that serves now; None between two of them."""
        return self._supervisor.pid

    async def listen(self, sandbox_id: SandboxId, path: str) -> None:
        """See the port. What failed half-way is removed.

        Raises:
            PerstackError: ALREADY_EXISTS `egress_already_listening`; INVALID `socket_path_too_long`; PRECONDITION
                `egress_socket_failed`; UNAVAILABLE `egress_unavailable`.
        """
        async with self._binding:
            if sandbox_id in self._listeners:
                raise PerstackError(
                    Kind.ALREADY_EXISTS,
                    "egress_already_listening",
                    f"sandbox {sandbox_id} has an egress listener already: close it first",
                )
            listener = _Listener(sandbox_id, path, await asyncio.to_thread(bind, path))
            self._listeners[sandbox_id] = listener
        try:
            await self._carry_out(listener, self._policy(()))
        except BaseException:
            self._tasks.create_task(self.close(sandbox_id), name="egress-listen-undone")
            raise

    async def allow(self, sandbox_id: SandboxId, rules: Sequence[EgressRule], occupant: Occupant | None = None) -> None:
        """See the port. Refused rules change nothing; after UNAVAILABLE nothing is allowed until the next call.

        Raises:
            PerstackError: NOT_FOUND `egress_not_listening`; INVALID `egress_rule_invalid`; PRECONDITION
                `egress_secret_missing`; UNAVAILABLE `egress_unavailable`.
        """
        listener = self._listeners.get(sandbox_id)
        if listener is None:
            raise _not_listening(sandbox_id)
        policy = self._policy(rules, occupant)
        async with listener.turn:
            if listener.settled and policy == listener.policy:
                return  # in force already, or in the next process's hands: most sandboxes reach nothing
            await self._carry_out(listener, policy)

    async def explain(self, question: EgressQuestion) -> EgressExplanation:
        """See the port; answers also while the asked sandbox's own policy changes.

        Raises:
            PerstackError: NOT_FOUND `egress_not_listening`; INVALID `egress_rule_invalid`; UNAVAILABLE
                `egress_unavailable`.
        """
        policy = self._policy(question.rules)
        sandbox_id = question.sandbox_id or SandboxId("")
        asked = pb.Explain(sandbox_id=sandbox_id, policy=policy, host=question.host, port=question.port)
        try:
            async with asyncio.timeout(self._options.dial_timeout + self._deadline):
                channel = await self._supervisor.channel()
                return explanation(await channel.ask(asked))
        except (TimeoutError, ChannelLost):
            raise _unavailable("perstack-egress did not answer in time; try again") from None
        except OrderRefused as refused:
            raise _refusal(refused, sandbox_id) from None

    async def close(self, sandbox_id: SandboxId) -> None:
        """See the port. Its tunnels have been reported to the observers on return."""
        listener = self._listeners.pop(sandbox_id, None)
        if listener is None:
            return
        listener.listening.close()
        await asyncio.to_thread(remove, listener.path)
        channel = listener.served_by
        if channel is None:
            return
        try:
            async with asyncio.timeout(self._deadline):
                await channel.order(pb.ToEgress(close=pb.CloseListener(sandbox_id=sandbox_id)))
        except ChannelLost:
            return  # the process is gone, and with it the tunnels
        except TimeoutError:
            self._supervisor.kill("it did not close a listener in time")

    def subscribe(self, observer: Callable[[EgressAccess], None]) -> None:
        """See the port. An observer that raises is logged and does not keep the others from being called."""
        self._observers.add(observer)

    async def _carry_out(self, listener: _Listener, policy: pb.EgressPolicy) -> None:
        """Have `policy` in force for the listener, over as many processes as it takes within the deadline."""
        if policy.ByteSize() > MAX_PACKET - 1024:
            count = len(policy.rules)
            raise _rule_invalid(f"{count} rules do not fit into one message: use fewer, or *.suffix rules")
        listener.settled = False
        try:
            async with asyncio.timeout(self._deadline):
                while not await self._attempt(listener, policy):
                    pass  # the process was lost: the next attempt waits for another
        except TimeoutError:
            listener.policy = self._policy(())
            self._supervisor.kill("it did not answer in time")
            raise _unavailable("perstack-egress did not answer in time; it is being restarted, try again") from None
        except OrderRefused as refused:
            raise _refusal(refused, listener.sandbox_id) from None
        listener.policy, listener.settled = policy, True

    async def _attempt(self, listener: _Listener, policy: pb.EgressPolicy) -> bool:
        """One order to the process of now; False when that was lost meanwhile."""
        channel = await self._supervisor.channel()
        if self._listeners.get(listener.sandbox_id) is not listener:
            raise _not_listening(listener.sandbox_id)
        try:
            await listener.tell(channel, policy)
        except ChannelLost:
            self._supervisor.lost(channel)
            return False
        return True

    async def _hand_over(self, channel: Channel) -> None:
        for listener in tuple(self._listeners.values()):
            if listener.sandbox_id in self._listeners:  # not closed while we waited
                await listener.tell(channel, listener.policy)

    def _heard(self, message: pb.Access) -> None:
        listener = self._listeners.get(SandboxId(message.sandbox_id))
        if listener is not None:
            listener.used_bytes += message.bytes_up + message.bytes_down
        self._observers.report(message)

    def _policy(self, rules: Sequence[EgressRule], occupant: Occupant | None = None) -> pb.EgressPolicy:
        listed = [pb.EgressRule(host=rule.host, port=rule.port) for rule in rules]
        routes = self._routes.of(occupant) if occupant is not None else ()
        return pb.EgressPolicy(rules=listed, allow_addresses=self._allow_addresses, routes=routes)


def _networks(blocks: Sequence[str]) -> tuple[str, ...]:
    for block in blocks:
        try:
            ip_network(block)
        except ValueError as error:
            raise PerstackError(
                Kind.INVALID,
                "egress_addresses_invalid",
                f"egress.allow_addresses: {error}; write CIDR blocks such as 10.1.0.0/16",
            ) from None
    return tuple(blocks)


def _refusal(refused: OrderRefused, sandbox_id: SandboxId) -> PerstackError:
    match refused.reason:
        case "rule_invalid":
            return _rule_invalid(f"{refused.detail}; a rule is a host name or *. and a suffix, without port or scheme")
        case "not_listening":
            return _not_listening(sandbox_id)
        case _:
            return PerstackError(Kind.INTERNAL, "egress_order_refused", f"perstack-egress refused an order: {refused}")


def _rule_invalid(message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "egress_rule_invalid", message)


def _not_listening(sandbox_id: SandboxId) -> PerstackError:
    return PerstackError(
        Kind.NOT_FOUND, "egress_not_listening", f"sandbox {sandbox_id} has no egress listener: call listen first"
    )


def _unavailable(message: str) -> PerstackError:
    return PerstackError(Kind.UNAVAILABLE, "egress_unavailable", message, retryable=True)
