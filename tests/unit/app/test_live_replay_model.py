"""Jobs that do an ended job again with a live model, and how they compare with it."""

from pathlib import Path

import pytest

from perstackd.domain.events import CallTools, ContextCompacted, StartRun
from perstackd.domain.expert import ModelChoice
from perstackd.domain.job import JobState
from perstackd.domain.messages import ModelRequest, TextPart, ToolResultPart, Turn
from perstackd.domain.reenactment import ReplayMode
from tests.unit.app.daemon_in_memory import SKILLS, world
from tests.unit.app.doing_again import TURNS, Turns, one_after_the_other, recorded, replayed
from tests.unit.app.test_context import ALONE, OLD, ThinkingModel, asks_for_a_summary, with_model
from tests.unit.app.test_jobs import LEAD, calls, says
from tests.unit.app.test_people import MAIL, asked

pytestmark = pytest.mark.anyio


async def test_a_live_model_gets_the_recorded_results_and_no_sandbox_is_claimed(tmp_path: Path) -> None:
    daemon, again, events, found = await one_after_the_other(tmp_path, TURNS, TURNS, ReplayMode.MODEL)
    assert (again.state, again.answer) == (JobState.COMPLETED, "done")
    assert (found.difference, found.unrecorded, found.runs) == (None, (), 3)
    types = [event.payload.type for event in events]
    assert not {"sandboxAssigned", "initializeRuntime", "skillStarting"} & set(types)
    assert types[:4] == ["jobCreated", "jobAdmitted", "startRun", "startGeneration"]
    told = str(daemon.models.requests[-1].messages)
    assert "result 1" in told
    assert "result 2" in told
    assert "there" in told
    assert again.replay == "liveModel"


async def test_calls_get_the_results_of_the_same_calls_whatever_their_ids_and_their_order(tmp_path: Path) -> None:
    before: Turns = {LEAD: [calls(("a", "exec", {"n": 1}), ("b", "exec", {"n": 2})), *TURNS[LEAD][2:]]}
    after: Turns = {LEAD: [calls(("y", "exec", {"n": 2}), ("z", "exec", {"n": 1})), *TURNS[LEAD][2:]]}
    daemon, _, _, found = await one_after_the_other(tmp_path, before, after, ReplayMode.MODEL)
    (results,) = [message for message in daemon.models.requests[1].messages if message.role == "tool"]
    assert [(part.call_id, part.content[0].text) for part in results.parts] == [("y", "result 2"), ("z", "result 1")]  # type: ignore[union-attr]
    assert found.difference is not None
    assert (found.difference.field, found.unrecorded) == ("turn.parts[0].arguments.n", ())


async def test_a_call_that_the_record_does_not_know_is_an_error_result_and_is_named(tmp_path: Path) -> None:
    turn = calls(("a", "exec", {"n": 9}), ("b", "exec", {"n": 1}))
    daemon, again, _, found = await one_after_the_other(
        tmp_path, TURNS, {**TURNS, LEAD: [turn, *TURNS[LEAD][1:]]}, ReplayMode.MODEL
    )
    assert again.state is JobState.COMPLETED
    assert "not_recorded" in str(daemon.models.requests[1].messages)
    (call,) = found.unrecorded
    assert (call.tool, call.arguments, call.step, call.expert_key) == ("exec", '{"n":9}', 1, "lead")
    assert found.difference is not None
    assert isinstance(found.difference.recorded, CallTools)
    assert (found.difference.field, found.difference.seq > 0) == ("turn.parts[0].arguments.n", True)


async def test_the_third_call_is_unknown_when_the_record_has_two(tmp_path: Path) -> None:
    again: Turns = {**TURNS, LEAD: [*TURNS[LEAD][:3], calls(("z", "exec", {"n": 1})), says("done")]}
    _, _, _, found = await one_after_the_other(tmp_path, TURNS, again, ReplayMode.MODEL)
    assert [(call.tool, call.arguments, call.step) for call in found.unrecorded] == [("exec", '{"n":1}', 4)]


async def test_a_delegation_or_a_question_that_the_record_does_not_know_is_an_error_too(tmp_path: Path) -> None:
    turn = calls(("d", "helper", {"query": "another"}), ("q", "ask", {"question": "Why?"}))
    _, again, events, found = await one_after_the_other(tmp_path, TURNS, {LEAD: [turn, says("so")]}, ReplayMode.MODEL)
    assert again.answer == "so"
    assert [event.payload.type for event in events].count("startRun") == 1
    assert [(call.tool, call.step) for call in found.unrecorded] == [("helper", 1), ("ask", 1)]


async def test_another_model_may_be_asked_and_is_no_difference(tmp_path: Path) -> None:
    async with world(tmp_path, TURNS) as daemon:
        record = await recorded(daemon)
        again, events, found = await replayed(daemon, record, ReplayMode.MODEL, model=ModelChoice("other", "better"))
        request = daemon.models.requests[-1]
    assert (request.provider, request.model, again.provider, again.model) == ("other", "better", "other", "better")
    starts = [event.payload for event in events if isinstance(event.payload, StartRun)]
    assert {(start.provider, start.model) for start in starts} == {("other", "better")}
    assert found.difference is None


async def test_what_people_allowed_is_allowed_again_and_what_they_did_not_is_not(tmp_path: Path) -> None:
    turns: Turns = {LEAD: [calls(("a", "send", {"to": "x"}), ("b", "send", {"to": "y"})), says("done")]}
    async with world(tmp_path, turns, skills=SKILLS) as daemon:
        daemon.links.tools = {"mail": ("send",)}
        record = await daemon.start(MAIL)
        one, two = await asked(daemon, record.id, 2)
        await daemon.jobs.answer(record.id, one.id, "approve", b"")
        await daemon.jobs.answer(record.id, two.id, "deny", b'"no"')
        await daemon.events(record.id)
        for mode in ReplayMode:
            again, _, found = await replayed(daemon, record, mode)
            assert (again.state, found.difference, found.unrecorded) == (JobState.COMPLETED, None, ())
            assert "did not allow" in str(daemon.models.requests[-1].messages)


@pytest.mark.parametrize("mode", ReplayMode)
async def test_a_history_is_summed_up_again_at_the_same_place(tmp_path: Path, mode: ReplayMode) -> None:
    def answer(request: ModelRequest) -> Turn:
        if asks_for_a_summary(request):
            return says("the summary")
        place = sum(not asks_for_a_summary(each) for each in model.requests) % 4
        return says("done") if not place else calls((f"c{place}", "exec", {"n": place}))

    model = ThinkingModel(answer)
    async with world(tmp_path, {}, change=with_model(model)) as daemon:
        daemon.links.tool = lambda call: ToolResultPart(call.call_id, (TextPart(OLD * 4),))
        record, before = await daemon.finished(ALONE)
        asked_until_now = len(model.requests)
        again, events, found = await replayed(daemon, record, mode)
    summaries = [event.payload for event in (*before, *events) if isinstance(event.payload, ContextCompacted)]
    assert [summary.summary for summary in summaries] == ["the summary"] * len(summaries)
    assert len(summaries) == 2 * sum(isinstance(event.payload, ContextCompacted) for event in before) > 0
    assert (again.answer, found.difference) == ("done", None)
    assert (len(model.requests) == asked_until_now) is (mode is ReplayMode.TOOLS)
    assert (again.microdollars == 0) is (mode is ReplayMode.TOOLS)
