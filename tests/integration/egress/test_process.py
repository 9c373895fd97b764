"""The real process under the real adapter: privileges, restarts, limits by option, a real client."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perstackd.adapters.egress import EgressProxy, ProgramOptions
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, EgressQuestion, EgressRule
from tests.integration.egress.client import BOUND, Certificate, Client, echo_server, make_certificate

pytestmark = pytest.mark.anyio

ONE = SandboxId("01K0000000000000000000000A")
TWO = SandboxId("01K0000000000000000000000B")
LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="perstack-egress-"))
    yield path
    shutil.rmtree(path)


class Heard(asyncio.Queue[EgressAccess]):
    async def next(self) -> EgressAccess:
        async with asyncio.timeout(BOUND):
            return await self.get()


@asynccontextmanager
async def proxy(
    options: ProgramOptions | None = None, allow: Sequence[str] = LOOPBACK
) -> AsyncIterator[tuple[EgressProxy, Heard]]:
    heard = Heard()
    async with EgressProxy(allow_addresses=tuple(allow), options=options) as egress:
        egress.subscribe(heard.put_nowait)
        yield egress, heard


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def running_pid(egress: EgressProxy) -> int:
    assert egress.pid is not None
    return egress.pid


async def next_pid(egress: EgressProxy, old: int) -> int:
    """The process after `old`, once it serves. Nothing tells of it, so this looks."""
    async with asyncio.timeout(BOUND):
        while egress.pid in (None, old):
            await asyncio.sleep(0.01)
    return running_pid(egress)


async def test_the_process_has_given_up_every_privilege() -> None:
    async with proxy() as (egress, _):
        fields = status(running_pid(egress))
        limits = Path(f"/proc/{egress.pid}/limits").read_text()
        owner = Path(f"/proc/{egress.pid}/environ").stat().st_uid
        descriptors = os.listdir(f"/proc/{egress.pid}/fd")
    assert fields["Uid"].split() == ["65534"] * 4
    assert fields["Gid"].split() == ["65534"] * 4
    assert fields["Groups"].split() == []
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert owner == 0  # what the kernel makes of /proc/PID of a process that is not dumpable
    assert any(line.split()[:6] == ["Max", "core", "file", "size", "0", "0"] for line in limits.splitlines())
    assert len(descriptors) < 16


async def test_it_ends_with_the_daemons_end_of_the_control_socket() -> None:
    async with proxy() as (egress, _):
        pid = running_pid(egress)
    assert not Path(f"/proc/{pid}").exists()


async def test_it_dies_with_a_daemon_that_is_killed(root: Path) -> None:
    program = (
        "import asyncio\n"
        "from perstackd.adapters.egress import EgressProxy\n"
        "async def main():\n"
        "    async with EgressProxy() as egress:\n"
        "        print(egress.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert daemon.stdout is not None
    async with asyncio.timeout(BOUND):
        pid = int(await daemon.stdout.readline())
        ended = asyncio.Event()
        descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        daemon.kill()
        await daemon.wait()
        await ended.wait()
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


async def test_tls_passes_to_the_named_host_and_to_no_other(root: Path, certificate: Certificate) -> None:
    path = str(root / "egress.sock")
    async with echo_server(certificate.server) as port, proxy(ProgramOptions(tls_ports=(443, port))) as (egress, heard):
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule("localhost", port)])
        async with await Client.dial(path) as client:
            assert (await client.connect("localhost", port)).status == 200
            await client.start_tls(certificate.client, "localhost")
            assert await client.echo(b"x" * 1_000_000) == b"x" * 1_000_000
        assert (await heard.next()).allowed
        anyone = ssl.create_default_context()
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        async with await Client.dial(path) as client:
            await client.connect("localhost", port)
            with pytest.raises(ssl.SSLError):
                await client.start_tls(anyone, "other.example")
        access = await heard.next()
        assert (access.allowed, access.reason, access.bytes_up) == (False, "sni_mismatch", 0)
        async with await Client.dial(path) as client:
            await client.connect("localhost", port)
            client.writer.write(b"EHLO localhost\r\n")
            await client.ended()
        assert (await heard.next()).reason == "not_tls"


async def test_loopback_is_refused_without_the_operators_word(root: Path) -> None:
    path = str(root / "egress.sock")
    async with echo_server() as port, proxy(allow=()) as (egress, heard):
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule("localhost", port)])
        async with await Client.dial(path) as client:
            answer = await client.connect("localhost", port)
        assert (answer.status, "egress.allow_addresses" in answer.body) == (403, True)
        assert (await heard.next()).reason == "address_not_global"


async def test_what_the_operator_leaves_out_is_denied_in_the_operators_name(root: Path) -> None:
    path, options = str(root / "egress.sock"), ProgramOptions(allow_hosts=(("*.in.test", 443),))
    async with proxy(options) as (egress, heard):
        await egress.listen(ONE, path)
        for host, reason in (("a.out.test", "egress_not_permitted"), ("a.in.test", "host_not_allowed")):
            async with await Client.dial(path) as client:
                answer = await client.connect(host, 443)
            assert (answer.status, "egress.allow_hosts" in answer.body) == (403, reason == "egress_not_permitted")
            assert (await heard.next()).reason == reason
            explained = await egress.explain(EgressQuestion(host, sandbox_id=ONE))
            assert explained.reason == reason


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_an_address_is_refused_in_every_notation(root: Path, host: str) -> None:
    path = str(root / "egress.sock")
    async with proxy(allow=()) as (egress, heard):
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule("localhost")])
        async with await Client.dial(path) as client:
            assert (await client.connect(host, 443)).status == 403
        access = await heard.next()
    assert (access.allowed, access.reason) == (False, "host_is_address")


async def test_a_killed_process_is_replaced_with_its_listeners_and_rules(root: Path) -> None:
    paths = {ONE: str(root / "one.sock"), TWO: str(root / "two.sock")}
    async with echo_server() as port, proxy() as (egress, _):
        for sandbox_id, path in paths.items():
            await egress.listen(sandbox_id, path)
        await egress.allow(ONE, [EgressRule("localhost", port)])
        old = running_pid(egress)
        async with await Client.dial(paths[ONE]) as tunnel:
            assert (await tunnel.connect("localhost", port)).status == 200
            os.kill(old, signal.SIGKILL)
            assert await tunnel.ended() == b""

        # Dialled while nobody serves: it waits in the backlog that the daemon holds open.
        async with await Client.dial(paths[ONE]) as waiting, await Client.dial(paths[TWO]) as denied:
            assert (await waiting.connect("localhost", port)).status == 200
            assert await waiting.echo(b"again") == b"again"
            assert (await denied.connect("localhost", port)).status == 403
        assert await next_pid(egress, old) != old
        await egress.allow(TWO, [EgressRule("localhost", port)])
        async with await Client.dial(paths[TWO]) as client:
            assert (await client.connect("localhost", port)).status == 200


async def test_calls_made_while_nobody_serves_wait_for_the_next_process(root: Path) -> None:
    path = str(root / "egress.sock")
    async with echo_server() as port, proxy() as (egress, _):
        await egress.listen(ONE, path)
        os.kill(running_pid(egress), signal.SIGKILL)
        await asyncio.gather(
            egress.allow(ONE, [EgressRule("localhost", port)]),
            egress.listen(TWO, str(root / "two.sock")),
        )
        async with await Client.dial(path) as client:
            assert (await client.connect("localhost", port)).status == 200


async def test_a_process_that_hangs_is_unavailable_then_replaced_and_denies_until_told_again(root: Path) -> None:
    path = str(root / "egress.sock")
    async with echo_server() as port, EgressProxy(allow_addresses=LOOPBACK, deadline=1.0) as egress:
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule("localhost", port)])
        old = running_pid(egress)
        os.kill(old, signal.SIGSTOP)
        with pytest.raises(PerstackError) as raised:
            await egress.allow(ONE, [])
        assert (raised.value.kind, raised.value.reason) == (Kind.UNAVAILABLE, "egress_unavailable")
        assert raised.value.retryable
        await next_pid(egress, old)
        async with await Client.dial(path) as client:
            assert (await client.connect("localhost", port)).status == 403


async def test_limits_of_the_command_line_hold(root: Path) -> None:
    path = str(root / "egress.sock")
    options = ProgramOptions(connections=1, header_timeout=0.3)
    async with proxy(options) as (egress, heard):
        await egress.listen(ONE, path)
        async with await Client.dial(path) as loris, await Client.dial(path) as second:
            assert (await second.ask(b"")).status == 503
            assert (await loris.ask(b"CONNECT a")).status == 408
        assert {(await heard.next()).reason, (await heard.next()).reason} == {
            "too_many_connections",
            "request_timeout",
        }


async def test_the_socket_is_for_everyone_who_has_the_directory_and_goes_with_the_listener(root: Path) -> None:
    path = root / "egress.sock"
    path.write_text("not a socket")
    async with proxy() as (egress, _):
        with pytest.raises(PerstackError) as raised:
            await egress.listen(ONE, str(path))
        assert (raised.value.kind, raised.value.reason) == (Kind.PRECONDITION, "egress_socket_failed")
        assert path.read_text() == "not a socket"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        await egress.listen(ONE, str(path))
        assert path.stat().st_mode & 0o777 == 0o666
        await egress.close(ONE)
        assert not path.exists()
        await egress.listen(TWO, str(path))
    assert not path.exists()


async def test_more_rules_than_a_message_holds_are_refused(root: Path) -> None:
    async with proxy() as (egress, _):
        await egress.listen(ONE, str(root / "egress.sock"))
        with pytest.raises(PerstackError) as raised:
            await egress.allow(ONE, [EgressRule(f"host-{number}.example") for number in range(5000)])
        assert raised.value.reason == "egress_rule_invalid"
        await egress.allow(ONE, [EgressRule(f"host-{number}.example") for number in range(2000)])


async def test_an_observer_that_fails_keeps_nobody_from_hearing(root: Path) -> None:
    def failing(access: EgressAccess) -> None:
        raise ValueError("an observer's own fault")

    path = str(root / "egress.sock")
    async with EgressProxy() as egress:
        heard = Heard()
        egress.subscribe(failing)
        egress.subscribe(heard.put_nowait)
        await egress.listen(ONE, path)
        for _ in range(2):
            async with await Client.dial(path) as client:
                await client.connect("a.example", 443)
            assert (await heard.next()).reason == "host_not_allowed"


async def test_pythons_own_http_client_gets_through_and_is_told_why_not(root: Path, certificate: Certificate) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage")
        await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the runner does: TCP inside, the socket outside, byte for byte."""
        async with await Client.dial(path) as client, asyncio.TaskGroup() as group:
            group.create_task(copy(reader, client.writer))
            group.create_task(copy(client.reader, writer))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
        except ConnectionError:
            pass  # the other side is gone: so is this one
        finally:
            sink.close()

    async def fetch(host: str) -> str:
        code = f"import urllib.request as r; print(r.urlopen('https://{host}:{port}/', timeout=10).read().decode())"
        environment = {"https_proxy": f"http://127.0.0.1:{inside}", "SSL_CERT_FILE": str(certificate.path)}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        async with asyncio.timeout(BOUND):
            return (await child.communicate())[0].decode()

    path = str(root / "egress.sock")
    web = await asyncio.start_server(page, "127.0.0.1", 0, ssl=certificate.server)
    bridge = await asyncio.start_server(join, "127.0.0.1", 0)
    port, inside = (server.sockets[0].getsockname()[1] for server in (web, bridge))
    async with web, bridge, proxy(ProgramOptions(tls_ports=(port,))) as (egress, _):
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule("localhost", port)])
        assert await fetch("localhost") == "page\n"
        assert "403 api.example.com is not in allowedDomains of this sandbox" in await fetch("api.example.com")


def test_addresses_that_are_no_blocks_are_refused_before_anything_starts() -> None:
    with pytest.raises(PerstackError, match="CIDR") as raised:
        EgressProxy(allow_addresses=("10.0.0.1/8",))
    assert raised.value.reason == "egress_addresses_invalid"


def run_program(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "perstack_egress", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)


def test_the_help_says_what_it_is() -> None:
    result = run_program("--help")
    assert result.returncode == 0
    assert "CONNECT" in result.stdout
    assert "control_fd" in result.stdout


def test_it_refuses_to_work_without_a_control_socket() -> None:
    result = run_program("0")
    assert result.returncode == 2
    assert "no_control_socket" in result.stderr


def test_it_refuses_to_work_as_root() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-m", "perstack_egress", str(theirs.fileno()), "--uid=0"]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=BOUND, check=False, pass_fds=(theirs.fileno(),)
        )
    assert result.returncode == 1
    assert "never works as root" in result.stderr
