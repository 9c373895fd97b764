"""What every runner link promises, over the fake and over a real socket."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from perstack.v1 import runner_pb2 as pb

from perstackd.adapters.clock import SystemClock
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Finish, LinkLost, NextTurn, Probe, Ready
from perstackd.ports.runner_link import RunnerLink, RunnerLinks
from perstackd.rpc.runner import SocketRunnerLinks
from tests.fakes.runner_dialled import Dialled, dialled
from tests.fakes.runner_link import HELLO, FakeRunnerLink, FakeRunnerLinks, hash_of

pytestmark = pytest.mark.anyio
ID = SandboxId("01HZZZZZZZZZZZZZZZZZZZZZZZ")
TOKEN = "0123456789abcdef0123456789abcdef"


class Runner(Protocol):
    """The other end, as each kind of link has it."""

    async def call(self, version: int = 1) -> None: ...
    async def dial(self, token: str) -> bool: ...
    async def ready(self, path: str) -> None: ...
    async def next_turn(self, step: int) -> None: ...
    async def orders(self, count: int) -> list[str]: ...
    async def leave(self) -> None: ...


class FakeSide:
    def __init__(self, links: FakeRunnerLinks, link: FakeRunnerLink) -> None:
        self._links, self._link = links, link
        links.hold_hellos()

    async def call(self, version: int = 1) -> None:
        self._links.hello = replace(HELLO, protocol_version=version)
        self._links.release_hellos()

    async def dial(self, token: str) -> bool:
        welcomed = self._link.dial(token)
        if welcomed:
            self._links.release_hellos()
        return welcomed

    async def ready(self, path: str) -> None:
        self._link.push(Ready(path))

    async def next_turn(self, step: int) -> None:
        self._link.push(NextTurn(step))

    async def orders(self, count: int) -> list[str]:
        return [type(order).__name__ for order in self._link.orders[:count]]

    async def leave(self) -> None:
        self._link.lose()


class SocketSide:
    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self._path, self._stack, self._counter = path, stack, 0
        self._runner: Dialled | None = None

    async def call(self, version: int = 1) -> None:
        self._runner = await self._stack.enter_async_context(dialled(self._path))
        self._runner.say(hello=pb.Hello(protocol_version=version))

    async def dial(self, token: str) -> bool:
        try:
            runner = await self._stack.enter_async_context(dialled(self._path))
        except OSError:
            return False
        runner.say(hello=pb.Hello(protocol_version=1, session_token=token))
        answer = await runner.read()
        if answer is None or not answer.HasField("welcome"):
            return False
        self._runner = runner
        return True

    async def ready(self, path: str) -> None:
        self._say(ready=pb.Ready(workspace_path=path))

    async def next_turn(self, step: int) -> None:
        self._say(next_turn=pb.NextTurn(step=step))

    async def orders(self, count: int) -> list[str]:
        names: list[str] = []
        while len(names) < count:
            assert self._runner is not None
            order = await self._runner.read()
            assert order is not None
            kind = str(order.WhichOneof("message"))
            if kind not in {"welcome", "ack"}:
                names.append(kind.capitalize())
        return names

    async def leave(self) -> None:
        assert self._runner is not None
        await self._runner.leave()

    def _say(self, **message: Any) -> None:
        assert self._runner is not None
        self._counter += 1
        self._runner.say(counter=self._counter, **message)


@pytest.fixture(params=["fake", "socket"])
def linked(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    @asynccontextmanager
    async def open_link(token_hash: str = "") -> AsyncIterator[tuple[RunnerLink, Runner]]:
        path = tmp_path / "gw/r.sock"
        path.parent.mkdir()
        async with AsyncExitStack() as stack:
            if request.param == "fake":
                links = FakeRunnerLinks()
                link = await links.listen(ID, str(path), token_hash)
                yield link, FakeSide(links, link)
            else:
                real = await SocketRunnerLinks(SystemClock()).listen(ID, str(path), token_hash)
                stack.push_async_callback(real.close)
                yield real, SocketSide(path, stack)

    return open_link


@pytest.fixture(params=["fake", "socket"])
def links(request: pytest.FixtureRequest) -> Callable[[], RunnerLinks]:
    return lambda: FakeRunnerLinks() if request.param == "fake" else SocketRunnerLinks(SystemClock())


async def test_hello_is_the_first_stream(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        assert (await link.hello(5)).protocol_version == 1


async def test_a_runner_one_version_older_is_taken(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call(version=0)
        assert (await link.hello(5)).protocol_version == 0


@pytest.mark.parametrize(("version", "reason"), [(7, "runner_protocol"), (None, "runner_silent")])
async def test_a_wrong_or_silent_runner_is_told(linked: Callable[[], Any], version: int | None, reason: str) -> None:
    async with linked() as (link, runner):
        if version is not None:
            await runner.call(version)
        with pytest.raises(PerstackError) as caught:
            await link.hello(5 if version else 0.05)
    assert caught.value.reason == reason


async def test_orders_arrive_in_order(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        await link.send(Probe("/mnt/workspace/x"))
        await link.send(Finish("completed"))
        with anyio.fail_after(5):
            assert await runner.orders(2) == ["Probe", "Finish"]


async def test_orders_from_before_the_runner_called_arrive_in_order(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await link.send(Probe("/mnt/workspace/x"))
        await link.send(Finish("completed"))
        await runner.call()
        await link.hello(5)
        with anyio.fail_after(5):
            assert await runner.orders(2) == ["Probe", "Finish"]


async def test_acknowledging_is_harmless_however_much_was_read_and_once_the_link_is_lost(
    linked: Callable[[], Any],
) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        await runner.ready("/mnt/workspace")
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            assert await anext(asks) == Ready("/mnt/workspace")
            first = link.position
            link.acknowledge(first + 100)
            await runner.next_turn(1)
            assert await anext(asks) == NextTurn(1)
            assert link.position > first
            await runner.leave()
            assert isinstance(await anext(asks), LinkLost)
        for position in (first, link.position + 100):
            link.acknowledge(position)
        await link.close()
        link.acknowledge(link.position)


async def test_asks_come_in_order_and_the_loss_is_the_last(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        await runner.ready("/mnt/workspace")
        await runner.next_turn(1)
        seen: list[object] = []
        with anyio.fail_after(5):
            async for ask in link.asks():
                seen.append(ask)
                link.acknowledge(link.position)
                if isinstance(ask, NextTurn):
                    await runner.leave()
        assert seen[:2] == [Ready("/mnt/workspace"), NextTurn(1)]
        assert [type(ask) for ask in seen[2:]] == [LinkLost]


async def test_nothing_can_be_sent_once_the_link_is_lost(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        await runner.leave()
        with anyio.fail_after(5):
            assert [type(ask) async for ask in link.asks()] == [LinkLost]
        with pytest.raises(PerstackError) as caught:
            await link.send(Finish("late"))
    assert caught.value.reason == "link_lost"


async def test_close_may_be_called_twice(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        await link.close()
        await link.close()


# --- sessions that go on after a restart of the daemon --------------------------------------------------------------
async def test_the_hash_of_a_sessions_token_is_known_once_it_was_greeted(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        assert link.token_hash == ""
        await runner.call()
        await link.hello(5)
        assert len(link.token_hash) == 64


async def test_nobody_else_can_dial_once_the_runner_was_greeted(linked: Callable[[], Any]) -> None:
    async with linked() as (link, runner):
        await runner.call()
        await link.hello(5)
        assert not await runner.dial("")


async def test_a_session_goes_on_with_its_token_and_keeps_it(linked: Callable[[str], Any]) -> None:
    async with linked(hash_of(TOKEN)) as (link, runner):
        assert link.token_hash == ""
        assert await runner.dial(TOKEN)
        assert (await link.hello(5)).protocol_version == 1
        assert link.token_hash == hash_of(TOKEN)
        await link.send(Probe("/mnt/workspace/x"))
        with anyio.fail_after(5):
            assert await runner.orders(1) == ["Probe"]
        assert not await runner.dial(TOKEN)


@pytest.mark.parametrize("token", ["", "f" * 32, TOKEN[:-1], hash_of(TOKEN), "\N{BUG}"])
async def test_who_has_not_the_sessions_token_is_refused_and_the_right_one_still_comes_in(
    linked: Callable[[str], Any], token: str
) -> None:
    async with linked(hash_of(TOKEN)) as (link, runner):
        for _ in range(3):
            assert not await runner.dial(token)
        assert link.token_hash == ""
        assert await runner.dial(TOKEN)
        assert (await link.hello(5)).protocol_version == 1


async def test_after_too_many_wrong_tokens_nobody_gets_the_session(linked: Callable[[str], Any]) -> None:
    async with linked(hash_of(TOKEN)) as (link, runner):
        for _ in range(9):
            assert not await runner.dial("wrong")
        assert not await runner.dial(TOKEN)
        with pytest.raises(PerstackError) as caught:
            await link.hello(5)
        assert caught.value.reason == "runner_silent"


async def test_a_path_that_no_socket_can_have_is_refused(links: Callable[[], RunnerLinks]) -> None:
    with pytest.raises(PerstackError) as caught:
        await links().listen(ID, "/tmp/" + "x" * 120)
    assert caught.value.reason == "socket_path_too_long"
