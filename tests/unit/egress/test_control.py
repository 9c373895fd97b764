"""Orders of the daemon, carried out in this process: what only the control socket shows."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from perstack.v1 import egress_pb2 as pb

from perstack_egress import control, name_files
from perstack_egress.control import Control
from perstack_egress.limits import Limits
from tests.integration.egress.client import BOUND, Client, echo_server

pytestmark = pytest.mark.anyio


class Daemon:
    """Our end of the control socket."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    async def order(self, message: pb.ToEgress, *files: socket.socket) -> str:
        socket.send_fds(self._ours, [message.SerializeToString()], [file.fileno() for file in files])
        while (heard := await self.hear()).WhichOneof("message") != "reply":
            pass
        return heard.reply.error

    async def hear(self) -> pb.FromEgress:
        async with asyncio.timeout(BOUND):
            return pb.FromEgress.FromString(await asyncio.get_running_loop().sock_recv(self._ours, 1 << 16))


@asynccontextmanager
async def running(files: name_files.Identities | None = None) -> AsyncIterator[tuple[Daemon, "asyncio.Task[None]"]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours, theirs:
        limits = Limits(tls_ports=frozenset())
        read = await asyncio.to_thread(name_files.identities) if files is None else files
        served = Control(theirs, limits, read)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(served.run())
            yield Daemon(ours), task
            ours.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory(prefix="perstack-egress-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as server,
    ):
        server.bind(str(Path(directory) / "egress.sock"))
        server.listen()
        yield server


async def test_a_replaced_file_of_name_resolution_ends_the_program_and_every_tunnel_is_told(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_WATCH_SECONDS", 0.05)
    files = dict(await asyncio.to_thread(name_files.identities))
    with listening:
        async with echo_server() as port, running(files) as (daemon, task):
            policy = pb.EgressPolicy(rules=[pb.EgressRule(host="localhost", port=port)], allow_addresses=["::/0"])
            policy.allow_addresses.append("127.0.0.0/8")
            assert await daemon.order(pb.ToEgress(listen=pb.Listen(sandbox_id="one", policy=policy)), listening) == ""
            async with await Client.dial(listening.getsockname()) as client:
                assert (await client.connect("localhost", port)).status == 200
                files["/etc/resolv.conf"] = (0, 0)
                assert await client.ended() == b""
            heard = await daemon.hear()
            await asyncio.wait_for(task, BOUND)
    assert (heard.access.allowed, heard.access.reason) == (True, "proxy_restarted")


async def test_a_file_that_was_not_there_counts_as_replaced_when_it_comes() -> None:
    before = await asyncio.to_thread(name_files.identities)
    assert set(before) == set(name_files.FILES)
    async with running({**before, "/etc/hosts": None}) as (_, task):
        await asyncio.wait_for(task, BOUND)


async def test_a_program_without_routes_refuses_a_policy_that_has_some(listening: socket.socket) -> None:
    route = pb.OriginRoute(name="api", host="a.example", headers=[pb.RouteHeader(name="x", value="hidden")])
    with listening:
        async with running() as (daemon, _):
            error = await daemon.order(
                pb.ToEgress(listen=pb.Listen(sandbox_id="one", policy=pb.EgressPolicy(routes=[route]))), listening
            )
    assert error.startswith("routes_not_served: ")


@pytest.mark.parametrize(
    "route",
    [
        pb.OriginRoute(name="API", host="a.example"),
        pb.OriginRoute(name="api", host="127.0.0.1.5"),
        pb.OriginRoute(name="api", host="a.example", port=70000),
        pb.OriginRoute(name="api", host="a.example", headers=[pb.RouteHeader(name="x\r\ny", value="hidden")]),
        pb.OriginRoute(name="api", host="a.example", headers=[pb.RouteHeader(name="x", value="hidden\r\nx: y")]),
    ],
)
async def test_a_route_that_cannot_be_sent_is_refused_without_its_values(
    listening: socket.socket, route: pb.OriginRoute
) -> None:
    with listening:
        async with running() as (daemon, _):
            error = await daemon.order(
                pb.ToEgress(listen=pb.Listen(sandbox_id="one", policy=pb.EgressPolicy(routes=[route]))), listening
            )
    assert error.startswith("rule_invalid: ")
    assert "hidden" not in error


async def test_what_an_earlier_process_counted_is_part_of_the_allowance(listening: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    policy = pb.EgressPolicy(rules=[pb.EgressRule(host="localhost")])
    with listening, ours, theirs:
        async with asyncio.TaskGroup() as group:
            files = await asyncio.to_thread(name_files.identities)
            group.create_task(Control(theirs, Limits(sandbox_bytes=100), files).run())
            daemon = Daemon(ours)
            order = pb.ToEgress(listen=pb.Listen(sandbox_id="one", policy=policy, used_bytes=100))
            assert await daemon.order(order, listening) == ""
            async with await Client.dial(listening.getsockname()) as client:
                assert "sandbox_bytes_exceeded" in (await client.connect("localhost", 443)).body
            ours.close()


async def test_a_question_about_rules_is_answered_while_other_orders_are_carried_out() -> None:
    async with running() as (daemon, _):
        rule = pb.EgressRule(host="localhost")
        asked = pb.Explain(policy=pb.EgressPolicy(rules=[rule], allow_addresses=["127.0.0.0/8"]), host="localhost")
        socket.send_fds(daemon._ours, [pb.ToEgress(request_id=7, explain=asked).SerializeToString()], [])
        assert await daemon.order(pb.ToEgress(request_id=8, close=pb.CloseListener(sandbox_id="none"))) == ""
        heard = await daemon.hear()
    assert (heard.explained.request_id, heard.explained.explanation.rule) == (7, "localhost:443")
