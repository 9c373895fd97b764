"""Starts and stops perstack-egress: no shell, an empty environment, one inherited descriptor."""

import asyncio
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_STOP_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """Command line of the program. Times are seconds; bytes are both directions together, 0 is no limit. Tunnels to
    `tls_ports` must be TLS to the named host. `ca_bundle` verifies origins of routes, "" is the machine's authorities.
    `allow_hosts` is the operator's policy, for the words of a denial; None when there is none.
    """

    uid: int = 65534
    gid: int = 65534
    tls_ports: tuple[int, ...] = (443,)
    connections: int = 64
    header_timeout: float = 10.0
    hello_timeout: float = 10.0
    dial_timeout: float = 10.0
    idle_timeout: float = 600.0
    tunnel_bytes: int = 0
    sandbox_bytes: int = 0
    ca_bundle: str = ""
    allow_hosts: tuple[tuple[str, int], ...] | None = None

    def arguments(self, *, routes: bool = False) -> list[str]:
        """As the program's `--help` lists them."""
        numbers = {
            "--uid": self.uid,
            "--gid": self.gid,
            "--connections": self.connections,
            "--header-timeout": self.header_timeout,
            "--hello-timeout": self.hello_timeout,
            "--dial-timeout": self.dial_timeout,
            "--idle-timeout": self.idle_timeout,
            "--tunnel-bytes": self.tunnel_bytes,
            "--sandbox-bytes": self.sandbox_bytes,
        }
        options = [f"{name}={value}" for name, value in numbers.items()]
        options += ["--routes", f"--ca-bundle={self.ca_bundle}"] if routes else []
        if self.allow_hosts is not None:
            options += ["--restricted", *(f"--allow-host={host}:{port}" for host, port in self.allow_hosts)]
        return options + [f"--tls-port={port}" for port in self.tls_ports]


@dataclass(frozen=True, slots=True)
class Program:
    """One running process and our end of its control socket."""

    control: socket.socket
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL; its end shows as the end of the control socket. Idempotent."""
        self.process.kill()


class Launcher:
    """Starts programs from one thread that lives until `close`.

    The kernel sends the parent-death signal that the program asks for when the *thread* that started it ends, so it
    must not be one of a pool that comes and goes.
    """

    def __init__(self, options: ProgramOptions, *, routes: bool = False) -> None:
        self._arguments = options.arguments(routes=routes)
        self._thread = ThreadPoolExecutor(1, "egress-launcher")

    async def start(self) -> Program:
        """A started program. Raises OSError when it cannot be executed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._start)

    async def stop(self, program: Program) -> int:
        """End it and everything it serves; returns the exit code, negative for a signal. At most a few seconds."""
        program.control.close()  # it ends by itself then
        return await asyncio.get_running_loop().run_in_executor(self._thread, _reap, program.process)

    def close(self) -> None:
        """After every program was stopped."""
        self._thread.shutdown(wait=False)

    def _start(self) -> Program:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-m", "perstack_egress", str(theirs.fileno()), *self._arguments]
            try:
                process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # One arena a thread would fill its address space limit on a machine of many cores.
                    env={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "2"},
                    cwd="/",
                    start_new_session=True,  # the terminal's Ctrl-C is the daemon's, which ends runs first
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(0)
        return Program(ours, process)


def _reap(process: subprocess.Popen[bytes]) -> int:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(_STOP_SECONDS)
    process.kill()
    return process.wait(_STOP_SECONDS)
