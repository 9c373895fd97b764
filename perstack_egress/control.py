"""The daemon's orders: one SOCK_SEQPACKET socket, one protobuf message a packet, listening sockets by SCM_RIGHTS.

Orders are carried out one after the other and answered in that order. A reply is queued behind the reports of what it
ended, so the daemon has heard of every tunnel of a closed listener before it hears that the listener is closed.
"""

import array
import asyncio
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError
from perstack.v1 import egress_pb2 as pb

from perstack_egress import messages, name_files
from perstack_egress.connection import Outcome
from perstack_egress.explain import explain
from perstack_egress.limits import Limits
from perstack_egress.listener import Listener
from perstack_egress.log import log
from perstack_egress.policy import DEFAULT_PORT, Policy, Rule
from perstack_egress.resolve import SystemResolver

MAX_PACKET = 1 << 16
_RESOLVER_THREADS = 64
_CLOSE_SECONDS = 2.0
_MAX_DESCRIPTORS = 4
_WATCH_SECONDS = 5.0
_DRY_RUNS = 4


class ControlClosed(Exception):  # noqa: N818 - the ordinary end of the program
    """The daemon let go of its end: there is nobody left to serve."""


class OrderRefused(Exception):  # noqa: N818 - an answer
    """An order that cannot be carried out; the text is `reason: sentence` and goes back in the reply."""


@dataclass(frozen=True, slots=True)
class _Served:
    listener: Listener
    task: asyncio.Task[None]


class Control:
    """Carries out orders until the control socket closes. `trust` verifies origins of routes; without it, there are
    none. `files` are those that name resolution may read: when one is replaced, this process cannot go on. `ceiling` is
    that of every policy.
    """

    def __init__(
        self,
        control: socket.socket,
        limits: Limits,
        files: name_files.Identities,
        trust: ssl.SSLContext | None = None,
        *,
        ceiling: tuple[Rule, ...] | None = None,
    ) -> None:
        control.settimeout(0)
        self._control = control
        self._limits = limits
        self._files = files
        self._trust = trust
        self._ceiling = ceiling
        # Bounded: when the daemon does not read, connections wait to be reported and keep their places.
        self._outgoing: asyncio.Queue[pb.FromEgress] = asyncio.Queue(maxsize=1024)
        self._served: dict[str, _Served] = {}
        self._resolving = ThreadPoolExecutor(_RESOLVER_THREADS, "resolve")
        self._dry_runs = SystemResolver(self._resolving, _DRY_RUNS)

    async def run(self) -> None:
        """Serve; returns when the daemon's end is closed, or when the machine's name resolution was set up anew. Every
        listener and tunnel has ended then.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all())
                group.create_task(self._receive_all(group))
                group.create_task(self._watch_files())
        except* (ControlClosed, ConnectionError):
            self._resolving.shutdown(wait=False, cancel_futures=True)

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await self._outgoing.get()
            await loop.sock_sendall(self._control, message.SerializeToString())
            self._outgoing.task_done()

    async def _watch_files(self) -> None:
        """A replaced file is not one that this process may read: another process starts with it."""
        while await asyncio.to_thread(name_files.identities) == self._files:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_WATCH_SECONDS)
        log("name_resolution_changed")
        for sandbox_id in tuple(self._served):
            await self._close(sandbox_id, "proxy_restarted")
        async with asyncio.timeout(_CLOSE_SECONDS):
            await self._outgoing.join()
        raise ControlClosed

    async def _receive_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            packet, descriptors = await self._receive()
            try:
                order = pb.ToEgress.FromString(packet)
                error = await self._answer(order, descriptors, group)
            except DecodeError:
                raise ControlClosed from None  # not our daemon, or not its version
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if error or order.WhichOneof("message") != "explain":
                await self._outgoing.put(pb.FromEgress(reply=pb.Reply(request_id=order.request_id, error=error)))

    async def _answer(self, order: pb.ToEgress, descriptors: list[int], group: asyncio.TaskGroup) -> str:
        try:
            match order.WhichOneof("message"):
                case "listen":
                    self._listen(order.listen, descriptors, group)
                case "set_policy":
                    self._find(order.set_policy.sandbox_id).listener.set_policy(self._policy(order.set_policy.policy))
                case "close":
                    await self._close(order.close.sandbox_id)
                case "explain":
                    group.create_task(self._explain(order.request_id, order.explain, self._asked_about(order.explain)))
                case None:
                    raise OrderRefused("order_unknown: this perstack-egress does not know the order")
        except OrderRefused as refused:
            return str(refused)
        except messages.RuleInvalid as invalid:
            return f"rule_invalid: {invalid}"
        return ""

    def _listen(self, order: pb.Listen, descriptors: list[int], group: asyncio.TaskGroup) -> None:
        if order.sandbox_id in self._served:
            raise OrderRefused(f"already_listening: {order.sandbox_id} has a listener")
        if len(descriptors) != 1:
            raise OrderRefused(f"no_socket: Listen came with {len(descriptors)} descriptors instead of one")
        policy = self._policy(order.policy)
        listening = socket.socket(fileno=os.dup(descriptors[0]))
        listening.settimeout(0)

        async def report(outcome: Outcome) -> None:
            await self._outgoing.put(messages.access(order.sandbox_id, outcome))

        resolver = SystemResolver(self._resolving, self._limits.lookups)
        listener = Listener(listening, self._limits, resolver, report, used_bytes=order.used_bytes, trust=self._trust)
        listener.set_policy(policy)
        self._served[order.sandbox_id] = _Served(listener, group.create_task(listener.run()))

    def _policy(self, message: pb.EgressPolicy) -> Policy:
        policy = messages.policy(message)
        if policy.routes and self._trust is None:
            raise OrderRefused("routes_not_served: this perstack-egress was started without --routes")
        return replace(policy, ceiling=self._ceiling)

    def _asked_about(self, order: pb.Explain) -> Policy:
        if order.sandbox_id:
            return self._find(order.sandbox_id).listener.policy
        return replace(messages.policy(order.policy), ceiling=self._ceiling)

    async def _explain(self, request_id: int, order: pb.Explain, policy: Policy) -> None:
        port = order.port or DEFAULT_PORT
        found = await explain(policy, order.host, port, self._dry_runs, self._limits.dial_timeout)
        await self._outgoing.put(messages.explained(request_id, found))

    async def _close(self, sandbox_id: str, reason: str = "listener_closed") -> None:
        served = self._served.pop(sandbox_id, None)
        if served is not None:
            served.listener.close(reason)
            await asyncio.wait((served.task,), timeout=_CLOSE_SECONDS)

    def _find(self, sandbox_id: str) -> _Served:
        served = self._served.get(sandbox_id)
        if served is None:
            raise OrderRefused(f"not_listening: {sandbox_id} has no listener")
        return served

    async def _receive(self) -> tuple[bytes, list[int]]:
        while True:
            await self._readable()
            try:
                return self._receive_now()
            except BlockingIOError:
                continue  # woken for nothing

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._control.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._control.fileno())

    def _receive_now(self) -> tuple[bytes, list[int]]:
        size = array.array("i").itemsize * _MAX_DESCRIPTORS
        packet, ancillary, flags, _ = self._control.recvmsg(
            MAX_PACKET, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
        )
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ControlClosed
        return packet, list(descriptors)
