"""How what a job is made of is written outside the store: records and payloads as documents, turns as lines."""

from collections.abc import Callable
from typing import Protocol

from perstackd.domain.events import Payload
from perstackd.domain.job import JobRecord
from perstackd.domain.recording import AnsweredRequest


class JobDocuments(Protocol):
    """Canonical documents: equal values have equal ones."""

    def write_job(self, record: JobRecord) -> bytes:
        """The record's document."""
        ...

    def read_job(self, document: bytes) -> JobRecord:
        """Raises PerstackError PRECONDITION `store_corrupt` when it is none."""
        ...

    def write_payload(self, payload: Payload) -> bytes:
        """The payload's document."""
        ...

    def read_payload(self, schema: int, document: bytes) -> Payload:
        """Raises PerstackError PRECONDITION `event_newer`, `store_corrupt`."""
        ...

    def write_value(self, value: object) -> bytes:
        """Canonical JSON of a domain value, or of a tuple of them."""
        ...


class Conversations(Protocol):
    """The file that the provider `replay` answers from."""

    def lines(self) -> Callable[[AnsweredRequest], str]:
        """Makes the lines of one file, without their ends, in the order of the job; called from one thread at a
        time.
        """
        ...
