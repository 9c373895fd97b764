"""Whole jobs that an earlier version wrote: this one reads them, and its law makes of them what was made then."""

from pathlib import Path

import pytest

from perstackd.adapters.store.documents import StoreDocuments
from perstackd.app.job_file import JobFile, read_job_file
from perstackd.domain.checkpoint import checkpoints
from perstackd.domain.events import SCHEMA
from perstackd.domain.ids import DEFAULT_TENANT
from perstackd.domain.job import JobState
from perstackd.domain.replay import replay

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(FIXTURES.glob("job-v*.jsonl")) + sorted(FIXTURES.glob("branch-v*.jsonl"))


def read(path: Path) -> JobFile:
    with path.open("rb") as file:
        return read_job_file(file, StoreDocuments(), DEFAULT_TENANT)


def test_every_schema_version_has_a_stored_job_and_a_stored_branch() -> None:
    expected = {f"{kind}-v{version}.jsonl" for version in range(1, SCHEMA + 1) for kind in ("job", "branch")}
    assert {path.name for path in FILES} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_a_stored_job_still_replays(path: Path) -> None:
    found = read(path)
    again = replay(found.events)
    assert again.divergence is None
    assert (again.events, again.runs) == (found.record.last_seq, found.record.runs)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_a_stored_job_still_has_its_checkpoints(path: Path) -> None:
    found = read(path)
    *_, last = checkpoints(found.events)
    assert found.record.state is JobState.COMPLETED
    assert (last.outcome, last.state.end is not None and last.state.end.text) == ("completed", found.record.answer)


def test_the_stored_job_has_what_is_hard_to_decide() -> None:
    (job,) = [path for path in FILES if path.name == "job-v1.jsonl"]
    types = {event.payload.type for event in read(job).events}
    assert types >= {
        *("callDelegate", "callInteractiveTool", "stopRunByInteractiveTool", "questionAnswered"),
        *("retry", "attemptCompletion", "resolveToolResults", "completeRun"),
    }
