import json
from pathlib import Path

import pytest

from perstackd.domain import session as domain
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import (
    Assign,
    NextTurn,
    Ready,
    RoutedCall,
    Session,
    ToolResults,
    TurnOrder,
    asked,
    ordered,
)

TABLE = json.loads((Path(__file__).parents[2] / "proto/perstack/v1/session.json").read_text())
NAMES = {
    "hello": domain.Hello,
    "probe_result": domain.ProbeResult,
    "ready": domain.Ready,
    "skill_state": domain.SkillReport,
    "next_turn": domain.NextTurn,
    "tool_results": domain.ToolResults,
    "progress": domain.Progress,
    "blob_chunk": domain.BlobChunk,
}


def test_the_daemon_allows_exactly_the_messages_of_the_shared_table() -> None:
    table = {(row["state"], NAMES[row["message"]]): row["next"] for row in TABLE["transitions"]}
    assert table == domain._ASKS


def test_a_step_goes_from_assignment_to_results() -> None:
    session = ordered(Session("idle"), Assign("e", "/mnt/workspace", False, (), (), ()))
    for ask in (Ready("/mnt/workspace"), NextTurn(1)):
        session, refusal = asked(session, ask)
        assert refusal == ""
    session = ordered(session, TurnOrder(1, (RoutedCall("a", "", "exec", "{}"), RoutedCall("b", "", "exec", "{}"))))
    session, refusal = asked(session, ToolResults(1, (ToolResultPart("a", ()), ToolResultPart("b", ()))))
    assert (refusal, session.step, session.state) == ("", 2, "reported")


@pytest.mark.parametrize(
    "ask",
    [
        ToolResults(1, ()),
        ToolResults(2, (ToolResultPart("a", ()),)),
        ToolResults(1, (ToolResultPart("forged", ()),)),
        NextTurn(1),
        domain.Progress("forged", 0, "x"),
    ],
    ids=["missing", "wrong step", "forged call", "not now", "forged progress"],
)
def test_what_the_state_does_not_allow_is_refused_and_counted(ask: domain.Ask) -> None:
    running = Session("running", 1, ("a",))
    after, refusal = asked(running, ask)
    assert refusal
    assert (after.state, after.step, after.calls, after.refusals) == ("running", 1, ("a",), 1)


def test_the_third_refusal_is_misbehaviour() -> None:
    session = Session("running", 1, ("a",))
    for _ in range(3):
        assert not session.misbehaved
        session, _ = asked(session, NextTurn(9))
    assert session.misbehaved
