"""Hands what the program reports to those who asked for it."""

from collections.abc import Callable

import structlog
from perstack.v1 import egress_pb2 as pb

from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess

_log = structlog.get_logger(__name__)


class Observers:
    """Calls every observer for every access, in order. One that raises is logged and stops nobody."""

    def __init__(self) -> None:
        self._observers: list[Callable[[EgressAccess], None]] = []

    def add(self, observer: Callable[[EgressAccess], None]) -> None:
        """From now on."""
        self._observers.append(observer)

    def report(self, message: pb.Access) -> None:
        """Translate and hand on."""
        access = EgressAccess(
            SandboxId(message.sandbox_id),
            message.host,
            message.port,
            message.allowed,
            message.reason,
            message.bytes_up,
            message.bytes_down,
            message.duration_ms,
        )
        for observer in self._observers:
            try:
                observer(access)
            except Exception as failure:  # rendering a traceback would read source files on the loop
                _log.error("egress_observer_failed", sandbox_id=access.sandbox_id, error=repr(failure))
