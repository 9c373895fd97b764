"""Which job has which named workspace: one at a time, or several that all agreed to share it.

Owned by the loop's thread; no method waits, so that a job cannot come between a question and its answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

_Key: TypeAlias = tuple[TenantId, str]


class WorkspaceHolds:
    """Jobs from their beginning to their end, and removals while they last."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, tuple[_Key, bool]] = {}
        self._removals: set[_Key] = set()

    def admit(self, tenant: TenantId, spec: WorkspaceSpec) -> None:
        """Refuse a job whose named workspace another one has, unless both share it.

        Raises:
            PerstackError: CONFLICT `workspace_in_use` with the first holder in field `job_id`.
        """
        if spec.kind is not WorkspaceKind.NAMED:
            return
        key = (tenant, spec.value)
        if key in self._removals:
            message = f"the workspace {spec.value!r} is being removed; try again in a moment, or use another name"
            raise PerstackError(Kind.CONFLICT, "workspace_in_use", message, retryable=True)
        alone = [
            job_id for job_id, (held, shared) in self._jobs.items() if held == key and not (shared and spec.shared)
        ]
        if alone:
            raise PerstackError(
                Kind.CONFLICT,
                "workspace_in_use",
                f"job {alone[0]} works in the workspace {spec.value!r}; wait for its end, use another one, or start "
                "both with --share, if they can live with each other's changes",
                fields={"job_id": alone[0]},
                retryable=True,
            )

    def take(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> None:
        """The job has it from now on, until `give_back`. Without a question: see `admit`."""
        if spec.kind is WorkspaceKind.NAMED:
            self._jobs[job_id] = ((tenant, spec.value), spec.shared)

    def give_back(self, job_id: JobId) -> None:
        """The job ends: before its end is written, so that whoever sees that can take the workspace. Idempotent."""
        self._jobs.pop(job_id, None)

    def holders(self, tenant: TenantId, name: str) -> tuple[JobId, ...]:
        """The jobs that have it, the oldest first."""
        return tuple(job_id for job_id, (held, _) in self._jobs.items() if held == (tenant, name))

    @contextmanager
    def removal(self, tenant: TenantId, name: str) -> Iterator[None]:
        """While open, no job takes it.

        Raises:
            PerstackError: CONFLICT `workspace_in_use` with the first holder in field `job_id`.
        """
        if holders := self.holders(tenant, name):
            message = f"job {holders[0]} works in the workspace {name!r}; wait for its end, or cancel it first"
            raise PerstackError(Kind.CONFLICT, "workspace_in_use", message, fields={"job_id": holders[0]})
        if (tenant, name) in self._removals:
            message = f"the workspace {name!r} is being removed already"
            raise PerstackError(Kind.CONFLICT, "workspace_in_use", message)
        self._removals.add((tenant, name))
        try:
            yield
        finally:
            self._removals.discard((tenant, name))
