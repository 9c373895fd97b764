"""What servers ask of the runner while a call runs, and what they tell it."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.fake_daemon import FakeDaemon, value_of
from tests.integration.runner.test_exec import written
from tests.integration.runner.test_skills import states

pytestmark = pytest.mark.anyio
SERVER = str(Path(__file__).with_name("asking_server.py"))
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def asking(**fields: Any) -> pb.SkillSpec:
    return pb.SkillSpec(name="s", stdio=pb.StdioServer(command=[sys.executable, "-I", "-S", SERVER]), **fields)


def form(message: str = "Who?", schema: dict[str, Any] = FORM, **params: Any) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema, **params}}


def ask(*requests: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    return ("ask", {"requests": list(requests), **more})


def answer(daemon: FakeDaemon, number: int, action: str = "accept", content: bytes = b'{"name":"Ada"}') -> None:
    daemon.order(elicited=pb.Elicited(elicitation_id=number, action=action, content=content))


def answers(result: pb.ToolResult) -> Any:
    return json.loads(result.content[0].text)


async def test_only_forms_and_roots_are_announced(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking()])
    assert json.loads((workspace / "capabilities").read_text()) == {"elicitation": {"form": {}}, "roots": {}}


async def test_sampling_is_refused_with_an_error_that_says_so(daemon: FakeDaemon, workspace: Path) -> None:
    message = {"role": "user", "content": {"type": "text", "text": "hi"}}
    sampling = {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 5}}
    await daemon.begin(workspace, skills=[asking()])
    (result,) = await daemon.results(1, ask(sampling, {"method": "roots/list"}, {"method": "ping"}), skill="s")
    refused, roots, pong = answers(result)
    assert (refused["code"], refused["message"]) == (-32600, "Sampling not supported")
    assert roots["roots"] == [{"uri": f"file://{workspace}", "name": "workspace"}]
    assert pong == {}


async def test_without_a_workspace_there_is_no_root(daemon: FakeDaemon) -> None:
    await daemon.begin("", skills=[asking()], base_tools=[])
    (result,) = await daemon.results(1, ask({"method": "roots/list"}), skill="s")
    assert answers(result) == [{"roots": []}]


async def test_a_form_waits_for_its_answer_and_the_time_out_stands_still(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking(tool_timeout_ms=1500)])
    daemon.order_calls(1, ("s", *ask(form())), ("s", "quick", {}))
    question = await daemon.next("elicit")
    assert (question.call_id, question.skill, question.elicitation_id, question.message) == ("c1-0", "s", 1, "Who?")
    assert json.loads(question.schema) == FORM
    await asyncio.sleep(3.0)  # twice the time-out: what is tested is that nothing happens
    answer(daemon, 1)
    asked, quick = await daemon.take_results(1)
    assert answers(asked) == [{"action": "accept", "content": {"name": "Ada"}}]
    assert answers(quick) == "done"


async def test_after_an_answer_the_clock_runs_on(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking(tool_timeout_ms=1500)])
    daemon.turn(1, ask(form(), hang=True), skill="s")
    await daemon.next("elicit")
    await asyncio.sleep(2.0)
    answer(daemon, 1, "decline", b"")
    started = time.monotonic()
    (result,) = await daemon.take_results(1)
    assert value_of(result)["error"] == "timeout"
    assert 0.1 < time.monotonic() - started < 15


@pytest.mark.parametrize(
    "request_",
    [
        form(schema={"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}),
        form(schema={"type": "object", "properties": {"a": {"type": "string", "description": "d" * (16 << 10)}}}),
        {
            "method": "elicitation/create",
            "params": {"mode": "url", "message": "m", "url": "https://h/", "elicitationId": "1"},
        },
    ],
    ids=["nested", "large", "url"],
)
async def test_what_is_no_small_flat_form_is_not_put_to_anyone(
    daemon: FakeDaemon, workspace: Path, request_: dict[str, Any]
) -> None:
    await daemon.begin(workspace, skills=[asking()])
    (result,) = await daemon.results(1, ask(request_), skill="s")
    (said,) = answers(result)
    assert said.get("action") == "decline" or said["code"] == -32602


async def test_a_long_message_is_cut_to_what_the_link_carries(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking()])
    daemon.turn(1, ask(form("ä" * 3000)), skill="s")
    question = await daemon.next("elicit")
    assert question.message == "ä" * 2048
    answer(daemon, 1, "cancel", b"")
    assert answers((await daemon.take_results(1))[0]) == [{"action": "cancel"}]


async def test_the_ninth_open_question_is_declined_and_the_others_keep_their_numbers(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[asking()])
    daemon.turn(1, ask(*[form(f"{n}") for n in range(9)]), skill="s")
    numbers = [(await daemon.next("elicit")).elicitation_id for _ in range(8)]
    assert numbers == list(range(1, 9))
    await written(workspace / "answers")  # that of the ninth, before there is room again
    for number in reversed(numbers):
        answer(daemon, number, content=json.dumps({"name": f"{number}"}).encode())
    said = answers((await daemon.take_results(1))[0])
    assert sorted(each["action"] for each in said) == ["accept"] * 8 + ["decline"]


async def test_an_answer_that_is_no_form_cancels_and_one_to_nothing_is_nothing(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[asking()])
    daemon.turn(1, ask(form()), skill="s")
    await daemon.next("elicit")
    answer(daemon, 7)
    answer(daemon, 1, content=b'{"name":{"nested":true}}')
    assert answers((await daemon.take_results(1))[0]) == [{"action": "cancel"}]
    answer(daemon, 1)
    assert answers((await daemon.results(2, ("quick", {}), skill="s"))[0]) == "done"


async def test_a_cancelled_call_takes_its_question_along(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking()])
    daemon.turn(1, ask(form()), skill="s")
    await daemon.next("elicit")
    daemon.order(cancel_calls=pb.CancelCalls(call_ids=["c1-0"]))
    (result,) = await daemon.take_results(1)
    assert value_of(result)["error"] == "cancelled"
    daemon.turn(2, ask(form("again")), skill="s")
    assert (await daemon.next("elicit")).elicitation_id == 2
    answer(daemon, 2)
    assert answers((await daemon.take_results(2))[0])[0]["action"] == "accept"


async def test_questions_that_a_server_withdraws_keep_their_places_until_the_turn_is_over(
    daemon: FakeDaemon, workspace: Path
) -> None:
    """The daemon counts them until then, so that more would be a fault of the runner."""
    await daemon.begin(workspace, skills=[asking()])
    daemon.order_calls(1, ("s", *ask(form(), withdraw="now")), ("s", *ask(*[form()] * 7)))
    numbers = [(await daemon.next("elicit")).elicitation_id for _ in range(8)]
    (workspace / "now").touch()
    for number in numbers[1:]:
        answer(daemon, number)
    first, second = await daemon.take_results(1)
    assert answers(first) == "withdrawn"
    assert len(answers(second)) == 7
    daemon.turn(2, ask(*[form()] * 8), skill="s")
    assert [(await daemon.next("elicit")).elicitation_id for _ in range(8)] == list(range(9, 17))
    for number in range(9, 17):
        answer(daemon, number)
    assert {each["action"] for each in answers((await daemon.take_results(2))[0])} == {"accept"}


async def test_a_question_that_no_call_waits_for_is_declined(daemon: FakeDaemon, workspace: Path) -> None:
    """Nobody could be told whose it is; and between turns the daemon would not take it."""
    await daemon.begin(workspace, skills=[asking()])
    late = ("news", {"notifications": [{"id": "late", **form()}], "after": "ended"})
    assert answers((await daemon.results(1, late, skill="s"))[0]) == "done"
    (workspace / "ended").touch()
    (line,) = await written(workspace / "answers")
    assert json.loads(line)["result"] == {"action": "decline"}


async def test_log_messages_are_reported_within_bounds(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking()])
    messages = [
        {"method": "notifications/message", "params": {"level": "warning", "logger": "db", "data": {"rows": 3}}},
        *[{"method": "notifications/message", "params": {"level": "info", "data": "x" * 3000}}] * 5,
    ]
    await daemon.results(1, ("news", {"notifications": messages}), skill="s")
    (news,) = [news for news in await states(daemon, "stderr") if news.state == pb.SkillState.STATE_STDERR]
    assert news.detail.startswith('[warning] db: {"rows": 3}\n[info] xxx')
    assert len(news.detail) <= 4000


async def test_a_changed_list_is_reported_once_for_a_burst_and_the_runs_list_stays(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[asking(omit=["quick"])])
    for step in range(1, 4):
        await daemon.results(step, ("grow", {}), skill="s")
    await states(daemon, "tools_changed")
    (news,) = [news for news in daemon.skill_states if news.state == pb.SkillState.STATE_TOOLS_CHANGED]
    assert [tool.name for tool in news.tools] == ["ask", "news", "grow", "grown4", "grown5", "grown6"]
    assert (workspace / "listed").read_text() == "x\n" * 2


async def test_a_list_that_did_not_change_is_no_news(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[asking()])
    changed = {"method": "notifications/tools/list_changed"}
    await daemon.results(1, ("news", {"notifications": [changed] * 50}), skill="s")
    async with asyncio.timeout(10):
        while (workspace / "listed").read_text() != "x\n" * 2:
            await asyncio.sleep(0.02)
    await daemon.results(2, ("quick", {}), skill="s")
    assert all(news.state != pb.SkillState.STATE_TOOLS_CHANGED for news in daemon.skill_states)


async def test_a_changed_list_that_cannot_be_used_is_a_line_of_its_standard_error(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[asking(omit=["quick"])])
    await daemon.results(1, *[("grow", {})] * 32, skill="s")
    for step in range(2, 34):
        await daemon.results(step, *[("grow", {})] * 32, skill="s")
    await states(daemon, "stderr")
    said = [news.detail for news in daemon.skill_states if news.state == pb.SkillState.STATE_STDERR]
    assert "its tools changed, and the new list cannot be used: the server lists more than 1000 tools" in said[0]


# --- the newer protocol -----------------------------------------------------------------------------------------------
def modern() -> pb.SkillSpec:
    server = str(Path(__file__).with_name("modern_server.py"))
    return pb.SkillSpec(name="s", stdio=pb.StdioServer(command=[sys.executable, "-I", "-S", server]))


async def test_a_server_without_a_handshake_asks_by_answering(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[modern()])
    assert daemon.skill_states[-1].state == pb.SkillState.STATE_CONNECTED
    daemon.turn(1, ("ask", {}), skill="s")
    question = await daemon.next("elicit")
    assert (question.call_id, question.message) == ("c1-0", "Who?")
    answer(daemon, 1)
    told = answers((await daemon.take_results(1))[0])
    assert told["state"] == "state"
    assert told["told"]["who"] == {"action": "accept", "content": {"name": "Ada"}}
    assert told["told"]["where"]["roots"][0]["uri"] == f"file://{workspace}"


async def test_a_server_that_asks_for_ever_or_for_a_model_fails_its_call(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[modern()])
    never, sample = await daemon.results(1, ("never", {}), ("sample", {}), skill="s")
    assert value_of(never)["message"] == "s: its server asked for more input 10 times"
    assert value_of(sample) == {"error": "tool_error", "message": "Sampling not supported"}


async def test_an_error_of_the_servers_own_is_not_taken_for_the_end_of_its_connection(
    daemon: FakeDaemon, workspace: Path
) -> None:
    """Servers use the code that the SDK has for a closed connection."""
    await daemon.begin(workspace, skills=[asking()])
    (result,) = await daemon.results(1, ("fail", {"code": -32000, "message": "rate limit"}), skill="s")
    assert value_of(result) == {"error": "tool_error", "message": "rate limit"}
