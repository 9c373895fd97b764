"""The service manager's notifications: a datagram to $NOTIFY_SOCKET, see sd_notify(3). Nothing happens without one."""

import os
import socket


def notify(state: str) -> None:
    """Send `state`, such as READY=1 or STOPPING=1. Never fails: a supervisor that does not listen is not our
    trouble.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0)
        try:
            sender.sendto(state.encode(), name)
        except OSError:
            return
