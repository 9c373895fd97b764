"""Command line of perstack-egress. The daemon starts it; nobody else has a reason to."""

import argparse
import asyncio
import os
import socket
import ssl
import sys
import threading
from collections.abc import Sequence

from perstack_egress.confine import confine
from perstack_egress.control import Control
from perstack_egress.limits import Limits
from perstack_egress.log import log
from perstack_egress.policy import parse_ceiling

_THREAD_STACK = 512 << 10

_ABOUT = """\
The proxy through which sandboxes of perstackd reach the hosts that their experts may use. perstackd starts it, hands it
one listening socket and one policy per sandbox over the control socket, and restarts it when it dies. It speaks HTTP
CONNECT, resolves names itself, refuses addresses that are not global, and checks that a TLS client names the host
that it asked for. Requests for a route of the operator go to that one origin, with headers that no sandbox sees. It
works as an unprivileged user, reads no files but those of name resolution, and ends when the control socket closes."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Exits with status 2 and a usage message when it is wrong."""
    parser = argparse.ArgumentParser("perstack-egress", description=_ABOUT)
    add = parser.add_argument
    default = Limits()
    add("control_fd", type=int, help="number of the inherited SOCK_SEQPACKET descriptor that orders come from")
    add("--uid", type=int, default=65534, help="user to become when started as root (default %(default)s)")
    add("--gid", type=int, default=65534, help="group to become when started as root (default %(default)s)")
    add("--tls-port", type=int, action="append", help="port whose tunnels must be TLS to the named host (default 443)")
    add("--connections", type=int, default=default.connections, help="most at once for a sandbox (default %(default)s)")
    add("--header-timeout", type=float, default=default.header_timeout, help="seconds (default %(default)s)")
    add("--hello-timeout", type=float, default=default.hello_timeout, help="seconds (default %(default)s)")
    add("--dial-timeout", type=float, default=default.dial_timeout, help="seconds (default %(default)s)")
    add("--idle-timeout", type=float, default=default.idle_timeout, help="seconds (default %(default)s)")
    add("--tunnel-bytes", type=int, default=default.tunnel_bytes, help="most through one connection, 0: no limit")
    add("--sandbox-bytes", type=int, default=default.sandbox_bytes, help="most of a sandbox, 0: no limit")
    add("--routes", action="store_true", help="serve origin routes as well")
    add("--ca-bundle", default="", help="PEM file that origins are verified by (default: the machine's authorities)")
    add("--restricted", action="store_true", help="denials name the operator's policy")
    add("--allow-host", action="append", default=[], metavar="HOST:PORT", help="what that permits")
    return parser.parse_args(arguments)


def main() -> None:
    """Run until the control socket closes. Exit status 0 then, 1 when the process cannot be confined."""
    arguments = parse_arguments(sys.argv[1:])
    control = _control_socket(arguments.control_fd)
    # Names are complete: a search list would look "name.allowed.example" up below the host's own domain. And glibc's
    # default of 5 s a try holds a thread for long.
    os.environ.update(LOCALDOMAIN=".", RES_OPTIONS="timeout:2 attempts:2")
    threading.stack_size(_THREAD_STACK)
    factory = _loop_factory()
    trust = _trust(arguments.ca_bundle) if arguments.routes else None
    ceiling = parse_ceiling(arguments.allow_host) if arguments.restricted else None
    try:
        confinement = confine(arguments.uid, arguments.gid)
    except (OSError, ValueError) as error:
        log("cannot_confine", error=str(error))
        raise SystemExit(1) from None
    log("started", pid=os.getpid(), uid=os.getuid(), landlock=confinement.landlock)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(Control(control, _limits(arguments), confinement.files, trust, ceiling=ceiling).run())
        log("stopped")
        # A look-up that never answers holds a thread that the interpreter would wait for. Nothing else is left to do.
        os._exit(0)


def _control_socket(descriptor: int) -> socket.socket:
    try:
        control = socket.socket(fileno=descriptor)
        if control.family == socket.AF_UNIX and control.type == socket.SOCK_SEQPACKET:
            return control
    except OSError:
        pass
    log("no_control_socket", descriptor=descriptor)
    raise SystemExit(2)


def _trust(ca_bundle: str) -> ssl.SSLContext:
    from perstack_egress.origin import trust

    try:
        return trust(ca_bundle)
    except OSError as error:
        log("no_authorities", error=str(error), ca_bundle=ca_bundle)
        raise SystemExit(1) from None


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def _limits(arguments: argparse.Namespace) -> Limits:
    return Limits(
        header_timeout=arguments.header_timeout,
        hello_timeout=arguments.hello_timeout,
        dial_timeout=arguments.dial_timeout,
        idle_timeout=arguments.idle_timeout,
        connections=arguments.connections,
        tunnel_bytes=arguments.tunnel_bytes,
        sandbox_bytes=arguments.sandbox_bytes,
        tls_ports=frozenset(arguments.tls_port or Limits().tls_ports),
    )


if __name__ == "__main__":
    main()
