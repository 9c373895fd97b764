"""The examples from start to end: real daemon, engine, sandboxes, proxy and skill servers. Recorded turns answer in the
place of a model, the examples' stand-ins in the place of GitHub and Gmail; no other host is named.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples import script, stand_in
from examples.script import EXAMPLES, Script
from examples.stage import ASKING, Scene, Stage, filled
from tests.e2e.daemon import Daemon, one, types

pytestmark = pytest.mark.docker

Event = dict[str, Any]


@pytest.fixture(scope="module")
def stage(home: Path) -> Stage:
    return Stage.at(home)


@pytest.fixture(scope="module")
def daemon(stage: Stage) -> Iterator[Daemon]:
    conversation = stage.home / "conversation.jsonl"
    conversation.write_text("".join(script.read(EXAMPLES / name).conversation.read_text() for name in script.names()))
    models = {"models.default_provider": "replay", "models.replay.file": str(conversation)}
    hold = {"jobs.ask_hold_ms": 1000}
    daemon = Daemon(stage.home, {**stage.settings(), **models, **hold}, real_providers=True)
    daemon.start()
    try:
        filled(stage)
        yield daemon
    finally:
        daemon.stop()


@contextmanager
def job(stage: Stage, example: Script, env: Mapping[str, str] | None = None) -> Iterator[tuple[Scene, Iterator[Event]]]:
    """A job of the example and its events; whatever becomes of the test, it ends."""
    with stage.set(example) as scene:
        scene.env = {**scene.env, **(env or {})}
        scene.begin("replay")
        with scene.watching() as events:
            yield scene, events


def until(events: Iterator[Event], wanted: Callable[[Event], bool]) -> list[Event]:
    """Events up to the first one that is wanted, which is the last."""
    seen = []
    for event in events:
        seen.append(event)
        if wanted(event):
            return seen
    raise AssertionError(f"it ended before: {types(seen)} {seen[-1]}")


def asks(event: Event) -> bool:
    return event["type"] in ASKING


def of(events: list[Event], event_type: str) -> list[Event]:
    return [event for event in events if event["type"] == event_type]


def holding(place: Path, secret: str) -> list[Path]:
    """Files below `place` with the secret in them, as it is; a file that goes meanwhile holds nothing."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


# --- fitness-assistant ------------------------------------------------------------------------------------------------
def test_fitness_assistant_asks_its_trainer_and_keeps_the_log(daemon: Daemon, stage: Stage) -> None:
    example = script.read(EXAMPLES / "fitness-assistant")
    with stage.set(example) as scene:
        events = scene.run("replay", example.plays[0])
        log = scene.read("fitness-log.md")
    assert events[-1]["outcome"] == "completed"
    assert [event["expertKey"] for event in of(events, "startRun")] == ["fitness-assistant", "pro-trainer"]
    assert "## Session 1" in log


# --- tic-tac-toe ------------------------------------------------------------------------------------------------------
BOARDS = {
    "corner": ["...|...|...", "X..|.O.|...", "X..|XO.|O..", "X.O|XO.|O.X"],
    "middle": ["...|...|...", "O..|.X.|...", "O..|.X.|...", "O.X|.X.|O..", "O.X|OX.|O.X"],
}


def squares(text: str) -> str:
    """The three rows of a board that is drawn with a head and numbers."""
    return "|".join("".join(line.split()[1:]) for line in text.splitlines()[1:4])


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_tic_tac_toe_answers_each_move_with_its_own_and_the_board_is_in_the_workspace(
    daemon: Daemon, stage: Stage, name: str
) -> None:
    example = script.read(EXAMPLES / "tic-tac-toe")
    boards = []
    with job(stage, example) as (scene, events):
        for answer in example.play(name).answers:
            until(events, asks)
            (question,) = scene.questions()
            boards.append(squares(scene.read("board.txt")))
            assert squares(question["message"]) == boards[-1]
            scene.answer(answer)
        rest = until(events, lambda event: event["type"] == "jobFinished")
        boards.append(squares(scene.read("board.txt")))
    assert boards == BOARDS[name]
    assert rest[-1]["outcome"] == "completed"
    assert squares(rest[-1]["answer"].partition("\n\n")[2]) == boards[-1]


def test_tic_tac_toe_has_no_turn_for_a_move_that_nobody_recorded(daemon: Daemon, stage: Stage) -> None:
    with job(stage, script.read(EXAMPLES / "tic-tac-toe")) as (scene, events):
        until(events, asks)
        scene.answer("b3")
        rest = until(events, lambda event: event["type"] == "jobFinished")
    assert (rest[-1]["outcome"], rest[-1]["reason"]) == ("failed", "no_recorded_turn")
    assert one(rest, "questionAnswered")["content"] == "b3"


def test_a_run_that_nobody_answers_ends_with_4_and_names_the_command_that_answers(daemon: Daemon, stage: Stage) -> None:
    example = script.read(EXAMPLES / "tic-tac-toe")
    with stage.set(example) as scene:
        options = ("--workspace", scene.workspace, "--provider", "replay", "-o", "json")
        done = daemon.ctl("run", example.expert, example.query, *options, cwd=scene.definition)
        scene.job = json.loads(done.stdout.splitlines()[0])["jobId"]
        assert done.returncode == 4
        assert f"job answer {scene.job}" in done.stderr
        assert len(scene.questions()) == 1


# --- github-issue-bot -------------------------------------------------------------------------------------------------
def test_github_issue_bot_posts_one_comment_and_its_token_is_in_the_skills_sandbox_alone(
    daemon: Daemon, stage: Stage
) -> None:
    example = script.read(EXAMPLES / "github-issue-bot")
    with job(stage, example) as (scene, watched):
        events = until(watched, lambda event: event["type"] == "jobFinished")
        github: Any = scene.stand_in
        log = scene.log()
        assert scene.changed() == []
    assert events[-1]["outcome"] == "completed"
    (turn,) = [turn for turn in example.turns if turn["calls"][0]["name"] == "commentOnIssue"]
    assert github.comments == [turn["calls"][0]["arguments"]["body"]]
    assert {event["skill"] for event in of(events, "secretReleased")} == {"github"}
    places = {event.get("role", "expert"): event["containerId"] for event in of(events, "sandboxAssigned")}
    assert set(places) == {"expert", "skill:github"}
    assert len(set(places.values())) == 2
    assert "exec" not in [tool["name"] for tool in one(events, "startRun")["tools"]]
    assert {event["host"] for event in of(events, "proxyAccess")} == {stage.stand_in.name}
    token = example.env["GH_TOKEN"]
    assert token not in json.dumps(events) + daemon.log()
    assert holding(stage.home / "state", token) == []
    for line in ("gave GH_TOKEN to github", "calls readIssue number=7", "commentOnIssue done in", "posted as https://"):
        assert line in log


def test_github_issue_bot_with_another_token_posts_nothing_and_is_told_why(daemon: Daemon, stage: Stage) -> None:
    example = script.read(EXAMPLES / "github-issue-bot")
    with job(stage, example, {"GH_TOKEN": "a-token-of-somebody-else"}) as (scene, watched):
        events = until(watched, lambda event: event["type"] == "jobFinished")
        github: Any = scene.stand_in
    assert github.comments == []
    assert github.refused == 1
    first = of(events, "resolveToolResults")[0]["results"][0]
    assert first["isError"]
    assert "Bad credentials" in first["content"][0]["text"]


# --- gmail-assistant --------------------------------------------------------------------------------------------------
def test_gmail_assistant_sends_nothing_before_a_person_allows_it(daemon: Daemon, stage: Stage) -> None:
    example = script.read(EXAMPLES / "gmail-assistant")
    deny, approve = example.plays[0].answers
    with job(stage, example) as (scene, watched):
        gmail: Any = scene.stand_in
        events = until(watched, asks)
        assert "Dear Ms Lind" in one(events, "approvalRequested")["question"]["arguments"]["text"]
        events += until(watched, lambda event: event["type"] == "sandboxReleased")
        assert one(events, "stopRunByInteractiveTool")
        assert gmail.sent == []
        scene.answer(deny)
        events += until(watched, asks)
        assert "Hi Anna" in of(events, "approvalRequested")[1]["question"]["arguments"]["text"]
        assert gmail.sent == []
        scene.answer(approve)
        events += until(watched, lambda event: event["type"] == "jobFinished")
        (mail,) = gmail.sent
    assert events[-1]["outcome"] == "completed"
    denied, allowed = of(events, "approvalDecided")
    assert (denied.get("approved", False), denied["reason"]) == (False, deny["deny"])
    assert allowed["approved"]
    assert "sent as s1" in json.dumps(of(events, "resolveToolResults")[-1]["results"])
    assert (mail["To"], mail["In-Reply-To"]) == ("anna@example.com", "<m1@example.com>")
    assert mail.get_content().startswith("Hi Anna,\n")
    assert "Dear Ms Lind" not in mail.get_content()


def test_gmail_assistants_secrets_go_to_the_skill_and_into_no_event(daemon: Daemon, stage: Stage) -> None:
    example = script.read(EXAMPLES / "gmail-assistant")
    with stage.set(example) as scene:
        events = scene.run("replay", example.plays[0])
    released = {(event["name"], event["skill"]) for event in of(events, "secretReleased")}
    assert released == {(name, "gmail") for name in example.env}
    for secret in (*example.env.values(), "an-access-token-of-the-stand-in"):
        assert secret not in json.dumps(events) + daemon.log()
        assert holding(stage.home / "state", secret) == []


# --- bug-finder -------------------------------------------------------------------------------------------------------
def test_bug_finders_readers_work_at_the_same_time_and_their_findings_are_one_report(
    daemon: Daemon, stage: Stage
) -> None:
    example = script.read(EXAMPLES / "bug-finder")
    filled(stage)
    with stage.set(example) as scene:
        events = scene.run("replay", example.plays[0])
        report = scene.read("bug-report.md")
    assert events[-1]["outcome"] == "completed"
    readers = {"boundary-reader", "state-reader", "failure-reader"}
    begun = {event["expertKey"]: event for event in of(events, "sandboxAssigned") if event["expertKey"] in readers}
    ended = {event["expertKey"]: event for event in of(events, "sandboxReleased") if event["expertKey"] in readers}
    done = {event["expertKey"]: event for event in of(events, "completeRun") if event["expertKey"] in readers}
    assert set(begun) == set(ended) == set(done) == readers
    assert len({event["containerId"] for event in of(events, "sandboxAssigned")}) == 4
    # Each had its sandbox before the first of them was done: all three lived at the same time.
    assert max(event["seq"] for event in begun.values()) < min(event["seq"] for event in done.values())
    assert max(event["timestamp"] for event in begun.values()) < min(event["timestamp"] for event in ended.values())
    assert all(reader in report for reader in readers)
    assert report.count("\n## ") == 5
    (merged,) = of(events, "finishToolCall")[-1:]
    assert merged["seq"] > max(event["seq"] for event in done.values())


# --- the stand-ins ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["github-issue-bot", "gmail-assistant"])
def test_a_stand_in_lets_nobody_in_without_the_scripts_secrets(name: str) -> None:
    place = stand_in.of(name, script.read(EXAMPLES / name).env)
    refused = place.answer(
        stand_in.Asked("GET", "/gmail/v1/users/me/messages?q=x", {"Authorization": "Bearer no"}, b"")
    )
    assert refused.status == 401
