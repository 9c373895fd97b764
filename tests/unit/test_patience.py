import pytest

from perstackd.domain.patience import PARALLEL_CALLS, patience_ms
from perstackd.domain.session import Session

CALLS = tuple(str(n) for n in range(PARALLEL_CALLS + 1))


@pytest.mark.parametrize(
    ("session", "wait"),
    [
        (Session("assigned"), 5),
        (Session("preparing"), 105),
        (Session("waiting"), None),
        (Session("running", 1, ("a",)), 1105),
        (Session("running", 1, CALLS), 2205),
        (Session("reported", 2), 5),
        (Session("finished"), None),
    ],
)
def test_a_sandbox_gets_its_tools_time_and_a_margin_but_none_for_what_the_daemon_does(
    session: Session, wait: int | None
) -> None:
    assert patience_ms(session, skill_start_ms=100, tool_ms=1000, margin_ms=5) == wait
