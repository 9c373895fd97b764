"""Runs as a child of test_rebinding: a proxy on a machine whose names are the test's, in a mount namespace of its own.

Prints, for each name that is asked for in turn, the status and reason of its CONNECT; then which names were looked up.
"""

import asyncio
import ctypes
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from perstackd.adapters.egress import EgressProxy, ProgramOptions
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, EgressQuestion, EgressRule
from tests.integration.egress.client import Client
from tests.integration.egress.dns_server import Server, Zone

ONE = SandboxId("01K0000000000000000000000A")
RESOLVER, ALLOWED = "127.53.53.53", "127.77.0.1"
_NEW_NAMESPACE, _BIND, _PRIVATE = 0x00020000, 4096, (1 << 18) | (1 << 14)


def enter(root: Path) -> None:
    """A mount namespace in which names are resolved by RESOLVER."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_NEW_NAMESPACE))
    _check(libc.mount(None, b"/", None, _PRIVATE, None))
    texts = {
        "resolv.conf": f"nameserver {RESOLVER}\nsearch searched.example\n",
        "nsswitch.conf": "hosts: files dns\n",
        "hosts": "127.0.0.1 localhost\n",
    }
    for name, text in texts.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644)
        _check(libc.mount(str(root / name).encode(), f"/etc/{name}".encode(), None, _BIND, None))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def ask(path: str, host: str, port: int, heard: "asyncio.Queue[EgressAccess]") -> tuple[int, str]:
    async with await Client.dial(path) as client:
        answer = await client.connect(host, port)
        if answer.status == 200:
            assert await client.echo(b"ping") == b"ping"
    return answer.status, (await heard.get()).reason


async def answers(zone: Zone, names: list[str], root: Path) -> list[tuple[int, str]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    dns = await Server.start(zone, RESOLVER)
    server = await asyncio.start_server(echo, ALLOWED, 0)
    port = server.sockets[0].getsockname()[1]
    heard: asyncio.Queue[EgressAccess] = asyncio.Queue()
    options = ProgramOptions(dial_timeout=1.5)
    async with asyncio.timeout(60), server, EgressProxy(allow_addresses=(f"{ALLOWED}/32",), options=options) as egress:
        egress.subscribe(heard.put_nowait)
        path = str(root / "egress.sock")
        await egress.listen(ONE, path)
        await egress.allow(ONE, [EgressRule(name, port) for name in sorted(set(names))])
        found = [await ask(path, name, port, heard) for name in names]
        dry = await egress.explain(EgressQuestion("mixed.example", port, sandbox_id=ONE))
        found.append((int(dry.allowed), json.dumps(dry.addresses)))
    dns.close()
    return found


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def main() -> None:
    given = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="perstack-egress-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        enter(root)
        zone = Zone(given["answers"], given["aliases"], frozenset(given["silent"]))
        found = asyncio.run(answers(zone, given["ask"], root))
    sys.stdout.write(json.dumps({"found": found, "asked": zone.asked}))


if __name__ == "__main__":
    main()
