"""Which sandboxes of an earlier daemon may be adopted."""

from dataclasses import replace
from typing import Any

import pytest

from perstackd.domain.adoption import adopted, eligible, found, unclaimed
from perstackd.domain.ids import JobId, RunId, SandboxId, TenantId
from perstackd.domain.pool import PoolState, Stage
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template

UIDS = range(200_000, 200_010)
ROW = SandboxRecord(SandboxId("01A"), "base", SandboxState.IDLE, 200_000, 1, session_token_hash="hash")
TEMPLATES = {"base": Template("base", "image", max=2)}


def other(number: int, **changes: Any) -> SandboxRecord:
    return replace(ROW, id=SandboxId(f"01{number}"), uid=UIDS[number], **changes)


def test_a_row_that_says_idle_and_never_claimed_is_unclaimed() -> None:
    assert unclaimed(ROW)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": SandboxState.STARTING},
        {"state": SandboxState.CLAIMED},
        {"state": SandboxState.REMOVING},
        {"tenant": TenantId("default")},
        {"job_id": JobId("j")},
        {"run_id": RunId("r")},
        {"claimed_at": 1},
        {"session_token_hash": ""},
    ],
    ids=",".join,
)
def test_a_row_that_says_anything_else_is_not(changes: dict[str, Any]) -> None:
    assert not unclaimed(replace(ROW, **changes))
    assert eligible([replace(ROW, **changes)], TEMPLATES, UIDS) == ()


def test_of_two_rows_with_one_uid_the_older_is_eligible() -> None:
    assert eligible([replace(ROW, id=SandboxId("01B")), ROW], TEMPLATES, UIDS) == (ROW,)


def test_a_uid_of_others_or_a_template_of_nobody_is_not_eligible() -> None:
    assert eligible([replace(ROW, uid=1000), other(1, template="gone")], TEMPLATES, UIDS) == ()


def test_the_oldest_are_eligible_up_to_max() -> None:
    assert [row.id for row in eligible([other(3), other(2), other(1)], TEMPLATES, UIDS)] == ["011", "012"]


def test_an_adopted_sandbox_is_idle_and_proves_late_binding_and_counts_as_no_start() -> None:
    before = found(found(PoolState(), SandboxId("01A"), 1.0), SandboxId("01B"), 1.0)
    assert not before.proven
    after = adopted(before, SandboxId("01B"), 2.0)
    assert [(seat.stage, seat.since) for seat in after.seats] == [(Stage.STARTING, 1.0), (Stage.IDLE, 2.0)]
    assert (after.proven, after.started_total, after.refill_ms) == (True, 0, ())
