"""Our end of the control socket of one perstack-egress process: orders out, replies and reports in."""

import asyncio
import socket
from collections.abc import Callable

from google.protobuf.message import DecodeError
from perstack.v1 import egress_pb2 as pb

MAX_PACKET = 1 << 16


class ChannelLost(Exception):  # noqa: N818 - the process ended, which is expected of processes
    """The process is gone, or does not speak our protocol."""


class OrderRefused(Exception):  # noqa: N818 - an answer
    """The program's answer: `reason` is a word, `detail` a sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reason, _, self.detail = text.partition(": ")


class Channel:
    """Orders are sent and carried out in the order of the calls. `read` must run in a task of the owner."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._sending = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[pb.Reply | pb.Explained]] = {}
        self._last_id = 0
        self._lost = False

    async def order(self, message: pb.ToEgress, listening: socket.socket | None = None) -> None:
        """Send an order, and a listening socket with it, and wait for the reply. The caller bounds the wait.

        Raises:
            ChannelLost: the process ended before it answered.
            OrderRefused: it answered that it will not.
        """
        await self._exchange(message, [] if listening is None else [listening.fileno()])

    async def ask(self, question: pb.Explain) -> pb.EgressExplanation:
        """The answer to a question; raises as `order`."""
        answer = await self._exchange(pb.ToEgress(explain=question), [])
        if not isinstance(answer, pb.Explained):
            raise ChannelLost  # not our program, or not its version
        return answer.explanation

    async def _exchange(self, message: pb.ToEgress, descriptors: list[int]) -> pb.Reply | pb.Explained:
        self._last_id += 1
        message.request_id = self._last_id
        reply: asyncio.Future[pb.Reply | pb.Explained] = asyncio.get_running_loop().create_future()
        self._waiting[message.request_id] = reply
        try:
            await self._send(message.SerializeToString(), descriptors)
            answer = await reply
        finally:
            self._waiting.pop(message.request_id, None)
        if isinstance(answer, pb.Reply) and answer.error:
            raise OrderRefused(answer.error)
        return answer

    async def read(self, on_access: Callable[[pb.Access], None]) -> None:
        """Read until the process is gone; then every order that waits raises ChannelLost, and so does each new one."""
        try:
            while packet := await asyncio.get_running_loop().sock_recv(self._control, MAX_PACKET):
                self._take(pb.FromEgress.FromString(packet), on_access)
        except (ConnectionError, DecodeError):
            pass  # the same end: the owner stops the process and starts another
        finally:
            self._lost = True
            for reply in self._waiting.values():
                if not reply.done():
                    reply.set_exception(ChannelLost())

    def _take(self, message: pb.FromEgress, on_access: Callable[[pb.Access], None]) -> None:
        match message.WhichOneof("message"):
            case "access":
                on_access(message.access)
            case "reply":
                self._answered(message.reply)
            case "explained":
                self._answered(message.explained)
            case None:
                pass  # a message of a newer program

    def _answered(self, answer: pb.Reply | pb.Explained) -> None:
        reply = self._waiting.get(answer.request_id)
        if reply is not None and not reply.done():
            reply.set_result(answer)

    async def _send(self, packet: bytes, descriptors: list[int]) -> None:
        async with self._sending:
            while not self._lost:
                try:
                    socket.send_fds(self._control, [packet], descriptors)
                except BlockingIOError:
                    await self._writable()
                except ConnectionError:
                    break
                else:
                    return
        raise ChannelLost

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._control.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._control.fileno())
