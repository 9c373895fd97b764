"""The files and libraries of the machine's name resolution: read before the process is confined, and watched after.

A file that was replaced by another (which is how most tools write them) is not the one that the process may read any
more. Then the program ends and is started again, which costs the tunnels that are open.
"""

import codecs
import ctypes
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

FILES: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf")
"""What getaddrinfo reads; links are followed."""

Identities: TypeAlias = Mapping[str, tuple[int, int] | None]
_SWITCH: Final = Path("/etc/nsswitch.conf")
_SERVICE: Final = re.compile(r"[a-z0-9_]{1,32}")


def identities() -> Identities:
    """Device and inode of each file, None where there is none."""
    return {path: _identity(path) for path in FILES}


def load_libraries() -> None:
    """Load what getaddrinfo would load at its first look-up, and threads at their end: a library that is loaded is not
    opened again. Those that cannot be are done without, as everywhere.
    """
    codecs.lookup("idna")  # Python's own step before it
    for name in ("libgcc_s.so.1", "libresolv.so.2", *(f"libnss_{service}.so.2" for service in _services())):
        with suppress(OSError):
            ctypes.CDLL(name)


def _services() -> list[str]:
    try:
        text = _SWITCH.read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    lines = (line.partition("#")[0] for line in text.splitlines())
    hosts = " ".join(line.partition(":")[2] for line in lines if line.strip().startswith("hosts:"))
    return _SERVICE.findall(re.sub(r"\[[^\]]*\]", " ", hosts))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
