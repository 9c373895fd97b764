"""One job in a named workspace at a time, or several that share it."""

from pathlib import Path

import pytest

from perstackd.app.workspace_holds import WorkspaceHolds
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import DEFAULT_TENANT, JobId, TenantId
from perstackd.domain.job import JobState
from perstackd.domain.messages import FinishReason, TextPart, Turn, Usage
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Entry, Held
from tests.unit.app.daemon_in_memory import world

FIRST, SECOND = JobId("first"), JobId("second")
NOTES = WorkspaceSpec(WorkspaceKind.NAMED, "notes")
SHARED = WorkspaceSpec(WorkspaceKind.NAMED, "notes", shared=True)


def holding(spec: WorkspaceSpec) -> WorkspaceHolds:
    holds = WorkspaceHolds()
    holds.take(FIRST, DEFAULT_TENANT, spec)
    return holds


def refusal(holds: WorkspaceHolds, spec: WorkspaceSpec) -> PerstackError:
    with pytest.raises(PerstackError) as refused:
        holds.admit(DEFAULT_TENANT, spec)
    return refused.value


@pytest.mark.parametrize(("held", "wanted"), [(NOTES, NOTES), (SHARED, NOTES), (NOTES, SHARED)])
def test_a_held_workspace_is_refused_with_its_holder_unless_both_share(
    held: WorkspaceSpec, wanted: WorkspaceSpec
) -> None:
    error = refusal(holding(held), wanted)
    assert (error.kind, error.reason, error.fields["job_id"]) == (Kind.CONFLICT, "workspace_in_use", FIRST)


def test_those_that_all_share_are_admitted_and_a_third_that_does_not_is_refused() -> None:
    holds = holding(SHARED)
    holds.admit(DEFAULT_TENANT, SHARED)
    holds.take(SECOND, DEFAULT_TENANT, SHARED)
    assert holds.holders(DEFAULT_TENANT, "notes") == (FIRST, SECOND)
    assert refusal(holds, NOTES).fields["job_id"] == FIRST


def test_it_is_free_once_it_was_given_back() -> None:
    holds = holding(NOTES)
    holds.give_back(FIRST)
    holds.give_back(FIRST)
    holds.admit(DEFAULT_TENANT, NOTES)
    assert holds.holders(DEFAULT_TENANT, "notes") == ()


def test_other_tenants_names_and_kinds_are_not_concerned() -> None:
    holds = holding(NOTES)
    holds.admit(TenantId("acme"), NOTES)
    holds.admit(DEFAULT_TENANT, WorkspaceSpec(WorkspaceKind.NAMED, "other"))
    for spec in (WorkspaceSpec(), WorkspaceSpec(WorkspaceKind.PATH, "/srv/notes")):
        holds.take(SECOND, DEFAULT_TENANT, spec)
        holds.admit(DEFAULT_TENANT, spec)


def test_no_job_takes_what_is_being_removed_and_nobody_removes_what_a_job_has() -> None:
    holds = holding(NOTES)
    with pytest.raises(PerstackError) as held, holds.removal(DEFAULT_TENANT, "notes"):
        pass
    assert held.value.fields["job_id"] == FIRST
    holds.give_back(FIRST)
    with holds.removal(DEFAULT_TENANT, "notes"):
        assert refusal(holds, SHARED).retryable
        with pytest.raises(PerstackError), holds.removal(DEFAULT_TENANT, "notes"):
            pass
    holds.admit(DEFAULT_TENANT, NOTES)


@pytest.mark.anyio
async def test_a_job_has_its_workspace_until_its_end(tmp_path: Path) -> None:
    said = Turn((TextPart("done"),), FinishReason.STOP, Usage(1, 1))
    held = Held(said)
    turns: dict[str, list[Entry]] = {"You are lead": [held, said]}
    async with world(tmp_path, turns) as daemon:
        first = await daemon.start(workspace=NOTES)
        with pytest.raises(PerstackError) as refused:
            await daemon.start(workspace=SHARED)
        assert refused.value.fields["job_id"] == first.id
        held.release.set()
        await daemon.events(first.id)
        assert daemon.jobs.holds.holders(DEFAULT_TENANT, "notes") == ()
        record, _ = await daemon.finished(workspace=SHARED)
        assert record.workspace.shared
        assert record.state is JobState.COMPLETED
