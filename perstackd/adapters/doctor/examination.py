"""The whole examination, in the order of what stands on what. A part that breaks is a finding, and the rest goes on."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from perstackd.adapters.docker import examination as engine
from perstackd.adapters.doctor import file_systems, host, kernel
from perstackd.adapters.doctor.subject import Subject
from perstackd.domain.checkup import Finding, error, good, warning

_PARTS: Final[tuple[tuple[str, Callable[[Subject], Iterable[Finding]]], ...]] = (
    ("kernel", kernel.examine),
    ("host", host.examine),
    ("workspaces", file_systems.examine),
    ("engine", engine.examine),
)


def examine(subject: Subject) -> Iterator[Finding]:
    """Findings as they come. Blocking, at most a minute or so; changes nothing, and takes no lock."""
    yield _daemon(subject.state / "lock")
    for area, part in _PARTS:
        try:
            yield from part(subject)
        except Exception as failure:  # a machine that nobody foresaw must not hide what the other parts find
            if isinstance(failure, PermissionError):
                yield error(area, "examination", f"could not be looked at: {failure}", "run the doctor as root")
                continue
            found = f"could not be looked at: {type(failure).__name__}: {failure}"
            yield error(area, "examination", found, "run the doctor as root; if it was, this is a defect: report it")


def _daemon(lock: Path) -> Finding:
    """Whether a daemon has the state directory, as the kernel tells it: asking for the lock could stop one that
    starts.
    """
    try:
        wanted = lock.stat()
    except FileNotFoundError:
        return good("perstackd", "daemon", "has not run here yet")
    except OSError as failure:
        return warning("perstackd", "daemon", f"cannot be told ({failure.strerror})", "run the doctor as root")
    device = (
        f"{wanted.st_dev >> 8 & 0xFFF:02x}:{wanted.st_dev & 0xFF | wanted.st_dev >> 12 & 0xFFF00:02x}:{wanted.st_ino}"
    )
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == device:
            return good("perstackd", "daemon", f"runs, pid {fields[4]}")
    return good("perstackd", "daemon", "does not run")
