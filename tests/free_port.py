"""A port for a server that a test starts by its number."""

import socket
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

_LOWEST = 10_000


def free_port(together: int = 1) -> int:
    """The first of so many of loopback that are free, in a row, and that no connection is given meanwhile: they are
    none of those that the kernel chooses from.

    Of those, whoever waits for the server by dialling it could be given the very port, and be connected to itself.
    """
    first_chosen = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = SystemRandom().randrange(_LOWEST, first_chosen - together)
        with ExitStack() as stack:
            try:
                for each in range(port, port + together):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue  # taken
        return port
