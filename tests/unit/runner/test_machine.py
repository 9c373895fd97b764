"""The machine beside the table that it shares with the daemon."""

import json
import random
from pathlib import Path

import pytest
from perstack_runner.machine import (
    WORKING,
    Action,
    AnswerProbe,
    AskTurn,
    CallsEnded,
    Event,
    Leave,
    Report,
    RunCalls,
    SayReady,
    Session,
    SkillSettled,
    TakenOver,
    TakeOver,
    Welcomed,
    decide,
)
from perstack_runner.messages import Assign, Call, Finish, Probe, SkillOrder, Turn
from perstack_runner.results import failed

TABLE = json.loads((Path(__file__).parents[3] / "proto/perstack/v1/session.json").read_text())
ALLOWED = {(row["state"], row["message"]): row["next"] for row in TABLE["transitions"]}
ORDERED = {(row["state"], row["message"]): row["next"] for row in TABLE["daemon"]}
MESSAGES: dict[type, str] = {
    AnswerProbe: "probe_result",
    SayReady: "ready",
    AskTurn: "next_turn",
    Report: "tool_results",
}
SKILLS = (
    SkillOrder("a", ("x",)),
    SkillOrder("b", ("x",)),
    SkillOrder("beside", ("x",), start="beside"),
    SkillOrder("late", ("x",), start="atCall"),
)


def calls(count: int) -> tuple[Call, ...]:
    return tuple(Call(str(number), "", "exec", b"{}") for number in range(count))


def run(events: list[Event]) -> tuple[Session, list[Action]]:
    session = Session()
    done: list[Action] = []
    for event in events:
        session, actions = decide(session, event)
        done += actions
    return session, done


def test_a_step_goes_from_assignment_to_the_next_question() -> None:
    results = (failed("0", "x", "y"),)
    turn = Turn(1, calls(1))
    assign = Assign("/w")
    session, done = run([Welcomed(), assign, TakenOver(), turn, CallsEnded(1, results)])
    assert done == [TakeOver(assign), SayReady(), AskTurn(1), RunCalls(turn), Report(1, results), AskTurn(2)]
    assert session == Session("waiting", 2)


def test_the_first_question_waits_for_the_skills_that_start_before_it() -> None:
    begun: list[Event] = [
        Welcomed(),
        Assign("/w", skills=SKILLS),
        TakenOver(),
        SkillSettled("beside"),
        SkillSettled("b"),
    ]
    assert AskTurn(1) not in run(begun)[1]
    assert run([*begun, SkillSettled("a")])[1][-1] == AskTurn(1)
    assert run([*begun, SkillSettled("a"), SkillSettled("a")])[1].count(AskTurn(1)) == 1


def test_a_turn_without_calls_is_followed_by_the_next_question() -> None:
    session, done = run([Welcomed(), Assign("/w", step=4), TakenOver(), Turn(4, ())])
    assert done[-1] == AskTurn(5)
    assert session.phase == "waiting"


def test_a_turn_that_lies_ahead_is_run_and_one_that_lies_behind_is_not() -> None:
    begun: list[Event] = [Welcomed(), Assign("/w", step=3), TakenOver()]
    assert run([*begun, Turn(9, calls(1)), CallsEnded(9, ())])[0] == Session("waiting", 10)
    assert run([*begun, Turn(2, calls(1))])[1][-1] == AskTurn(3)


@pytest.mark.parametrize(
    "late",
    [Assign("/other"), Turn(1, calls(1)), CallsEnded(2, ()), TakenOver(), Probe("/mnt/x"), Welcomed()],
    ids=lambda event: type(event).__name__,
)
def test_what_comes_twice_or_too_late_does_nothing(late: Event) -> None:
    begun: list[Event] = [Welcomed(), Assign("/w"), TakenOver(), Turn(1, calls(1))]
    assert run([*begun, late]) == run(begun)


def test_finish_ends_it_once_in_every_phase() -> None:
    events: list[Event] = [Welcomed(), Assign("/w"), TakenOver(), Turn(1, calls(1)), CallsEnded(1, ())]
    for count in range(len(events) + 1):
        session, done = run([*events[:count], Finish("over"), Finish("over")])
        assert session.phase == "finished"
        assert done.count(Leave("over")) == 1


def test_phases_in_which_news_of_skills_may_go_are_those_of_the_table() -> None:
    assert sorted(WORKING) == sorted(state for state, message in ALLOWED if message == "skill_state")


def test_random_walks_send_only_what_the_table_allows() -> None:
    for seed in range(300):
        _walk(random.Random(seed))


def _walk(dice: random.Random) -> None:
    """The daemon's side is folded by the table; each message of the machine has to be legal there when it is sent."""
    session, daemon = Session(), "new"
    starting = [skill.name for skill in SKILLS]
    sent = {"hello": 1}
    daemon = ALLOWED[daemon, "hello"]
    session, _ = decide(session, Welcomed())
    for _ in range(60):
        event = _event(dice, daemon, session, starting)
        order = _order(event)
        if order and (following := ORDERED.get((daemon, order))) is not None:
            daemon = following
        session, actions = decide(session, event)
        for action in actions:
            message = MESSAGES.get(type(action))
            if message is not None:
                assert (daemon, message) in ALLOWED, (daemon, message)
                daemon = ALLOWED[daemon, message]
                sent[message] = sent.get(message, 0) + 1
        assert session.phase in (daemon, "waiting"), (session, daemon)
    assert sent["hello"] == 1


def _event(dice: random.Random, daemon: str, session: Session, starting: list[str]) -> Event:
    choices: list[Event] = [Welcomed(), TakenOver(), CallsEnded(session.step, ())]
    choices += [SkillSettled(name) for name in starting]
    match daemon:
        case "idle":
            choices += [Probe("/mnt/x"), Assign("/w", skills=SKILLS)]
        case "waiting":
            choices += [Turn(session.step, calls(dice.randrange(3)))] * 2
    return dice.choice(choices)


def _order(event: Event) -> str:
    match event:
        case Probe():
            return "probe"
        case Assign():
            return "assign"
        case Turn(calls=some):
            return "turn_with_calls" if some else "turn_without_calls"
        case _:
            return ""
