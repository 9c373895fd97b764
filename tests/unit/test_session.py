import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    "elicit": domain.Elicit,
}


SAID = (
    Assign("e", "/mnt/workspace", False, (domain.SkillOrder("web", ("web",)),), (), ()),
    TurnOrder(1, (RoutedCall("a", "", "exec", "{}"),)),
    TurnOrder(2, ()),
    Ready("/mnt/workspace"),
    NextTurn(1),
    NextTurn(2),
    ToolResults(1, (ToolResultPart("a", ()),)),
    ToolResults(1, ()),
    domain.Progress("a", 2**63, "x"),
    domain.BlobChunk("sha256:x", 0, b"", True),
    domain.SkillReport("web", domain.SkillPhase.STDERR),
    domain.SkillReport("other", domain.SkillPhase.CONNECTED),
    domain.Hello(1, "", "", 0, False),
    domain.ProbeResult(None),
    domain.Failure("", ""),
    domain.LinkLost(""),
)


def test_the_daemon_allows_exactly_the_messages_of_the_shared_table() -> None:
    table = {(row["state"], NAMES[row["message"]]): row["next"] for row in TABLE["transitions"]}
    assert table == domain._ASKS
    assert all(row["state"] == domain._RETURNED for row in TABLE["on_return"])
    assert {NAMES[row["message"]]: row["next"] for row in TABLE["on_return"]} == domain._ASKS_ON_RETURN


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


@pytest.mark.parametrize("said_again", [(), (Ready("/mnt/workspace"),), (domain.Progress("a", 0, "x"),)])
def test_a_session_that_goes_on_after_a_restart_is_taken_up_from_wherever_its_runner_stands(
    said_again: tuple[domain.Ask, ...],
) -> None:
    results = ToolResults(4, (ToolResultPart("a", ()),))
    for last, state, step in ((NextTurn(4), "waiting", 4), (results, "reported", 5)):
        session = Session("returned", 4, ("a",))
        for ask in (*said_again, last):
            session, refusal = asked(session, ask)
            assert refusal == ""
        assert (session.state, session.step) == (state, step)


@pytest.mark.parametrize(
    "ask",
    [
        NextTurn(5),
        ToolResults(5, (ToolResultPart("a", ()),)),
        ToolResults(4, (ToolResultPart("forged", ()),)),
        domain.SkillReport("other", domain.SkillPhase.CONNECTED),
        domain.Hello(1, "", "", 0, False),
    ],
    ids=["a step ahead", "results ahead", "forged call", "unknown skill", "another hello"],
)
def test_a_session_that_goes_on_after_a_restart_is_held_to_what_the_log_knows(ask: domain.Ask) -> None:
    after, refusal = asked(Session("returned", 4, ("a",)), ask)
    assert refusal
    assert (after.state, after.step, after.refusals) == ("returned", 4, 1)


def test_results_are_refused_of_a_sandbox_that_was_given_no_calls() -> None:
    assert asked(Session("returned", 4), ToolResults(4, ()))[1]


def test_the_third_refusal_is_misbehaviour() -> None:
    session = Session("running", 1, ("a",))
    for _ in range(3):
        assert not session.misbehaved
        session, _ = asked(session, NextTurn(9))
    assert session.misbehaved


def test_news_comes_only_of_skills_that_the_sandbox_was_told_to_start() -> None:
    skills = (domain.SkillOrder("web", ("web",), (("TOKEN", "s3cret"),)),)
    session = ordered(Session("idle"), Assign("e", "/mnt/workspace", False, skills, (), ()))
    session, _ = asked(session, Ready("/mnt/workspace"))
    _, known = asked(session, domain.SkillReport("web", domain.SkillPhase.CONNECTED))
    _, forged = asked(session, domain.SkillReport("other", domain.SkillPhase.CONNECTED))
    assert (known, bool(forged)) == ("", True)


def test_secret_values_are_in_no_repr() -> None:
    order = domain.SkillOrder("web", ("web",), (("TOKEN", "s3cret"),))
    assign = Assign("e", "/mnt/workspace", False, (order,), (), (("KEY", "s3cret"),))
    assert "s3cret" not in f"{order!r} {assign!r} {[order, assign]}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SAID), max_size=30))
def test_whatever_a_runner_says_its_session_stays_in_the_table(said: list[object]) -> None:
    """And it can only ever report the calls that it was given."""
    states = {row["state"] for row in TABLE["transitions"]} | {row["next"] for row in TABLE["transitions"]}
    session = Session("idle")
    for item in said:
        before = session
        if isinstance(item, domain.Assign | domain.TurnOrder | domain.Finish):
            session = ordered(session, item)
            continue
        session, refusal = asked(session, item)  # type: ignore[arg-type]
        assert session.state in states | {"finished", "assigned"}
        assert session.refusals == before.refusals + bool(refusal)
        if isinstance(item, ToolResults) and not refusal:
            assert tuple(result.call_id for result in item.results) == before.calls
            assert (before.state, session.step, session.calls) == ("running", before.step + 1, ())
        if refusal:
            assert (session.state, session.step, session.calls) == (before.state, before.step, before.calls)
