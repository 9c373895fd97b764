"""Context from end to end: the model gives the right answer only when it was really shown what it should be shown."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.adapters.models.anthropic_request import body
from perstackd.app.run_context import RunServices
from perstackd.daemon import base_tools
from perstackd.domain.compaction import ASK, HEAD
from perstackd.domain.context_window import ContextWindows
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import CompactionFailed, ContextCompacted, Event
from perstackd.domain.job import JobState
from perstackd.domain.messages import (
    BlobPart,
    JsonObject,
    Message,
    ModelEvent,
    ModelRequest,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from perstackd.domain.session import BlobChunk, RoutedCall
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Held, calls, says
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import Machine, World, world
from tests.unit.test_run_laws import assert_a_provider_takes

pytestmark = pytest.mark.anyio
ALONE = '[experts.lead]\ninstruction = "Lead."\n'
TOOLS = base_tools()
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
OLD = "The code of the locker is 4711. " + "padding " * 250


@dataclass
class ThinkingModel:
    """Answers by what it is shown. `requests` are those so far."""

    answer: Callable[[ModelRequest], Turn | Held]
    requests: list[ModelRequest] = field(default_factory=list)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        assert_a_provider_takes(request.messages)
        self.requests.append(request)
        answer = self.answer(request)
        if isinstance(answer, Held):
            answer.reached.set()
            await answer.release.wait()
            answer = answer.turn
        yield answer

    async def close(self) -> None:
        pass


def with_model(model: ThinkingModel, window: int = 4_000) -> Callable[[RunServices], RunServices]:
    def change(services: RunServices) -> RunServices:
        windows = ContextWindows(0.5, {"scripted/*": window})
        return replace(
            services,
            models=model,
            base_tools=TOOLS,
            windows=windows,
            price=lambda _p, _m, used: used.input_tokens,
        )

    return change


def shown(request: ModelRequest) -> str:
    return "\n".join(_text(part) for message in request.messages for part in message.parts)


def _text(part: object) -> str:
    match part:
        case TextPart(text=text):
            return text
        case ToolResultPart(content=content):
            return "\n".join(_text(item) for item in content)
        case ToolCallPart(arguments=arguments):
            return json.dumps(arguments)
        case BlobPart():
            return f"[artefact {part.digest[7:19]}]"
        case _:
            return ""


def last_result(request: ModelRequest) -> str:
    return "\n".join(_text(part) for part in request.messages[-1].parts)


def asks_for_a_summary(request: ModelRequest) -> bool:
    return request.messages[-1] == Message(request.messages[-1].role, (TextPart(ASK),))


def types_of(events: list[Event]) -> list[str]:
    return [event.payload.type for event in events]


def of_length(call: RoutedCall) -> ToolResultPart:
    """The first call tells the code, the others nothing."""
    text = OLD if call.call_id == "first-1" else "nothing new " * 100
    return ToolResultPart(call.call_id, (TextPart(text),))


def forgetful(request: ModelRequest) -> Turn:
    """Reads three files, and says at the end what it still knows of the first."""
    if asks_for_a_summary(request):
        assert "4711" in shown(request)
        return says("## Facts\nThe locker: 4711.", usage=Usage(3_000, 100, 2_500))
    if HEAD in shown(request):
        assert "padding" not in shown(request)
        known = re.search(r"locker: (\d+)", shown(request))
        return says(f"The code is {known[1] if known else 'forgotten'}.")
    number = sum(bool(part) for message in request.messages for part in message.parts if isinstance(part, ToolCallPart))
    names = ("first", "second", "third", "fourth")
    return calls(("exec", {"command": "cat"}), prefix=names[number], usage=Usage(600 * (number + 1), 10))


async def test_a_run_answers_from_its_summary_once_its_history_is_compacted(tmp_path: Path) -> None:
    model = ThinkingModel(forgetful)
    async with world(tmp_path, {}, change=with_model(model)) as daemon:
        daemon.links.tool = of_length
        record, events = await daemon.finished(ALONE)
    assert (record.state, record.answer) == (JobState.COMPLETED, "The code is 4711.")
    (compacted,) = [event.payload for event in events if isinstance(event.payload, ContextCompacted)]
    asked = next(request for request in model.requests if asks_for_a_summary(request))
    before = model.requests[model.requests.index(asked) - 1]
    assert replace(asked, messages=before.messages) == before
    assert asked.messages[: len(before.messages)] == before.messages
    assert len(asked.messages) == compacted.kept_from + 1
    turns = [event.payload.turn.usage for event in events if event.payload.type == "callTools"]
    expected = sum(turns, Usage()) + compacted.usage + Usage(10, 5)
    assert record.usage == expected
    assert record.microdollars == expected.input_tokens
    assert "padding" in str([event.payload for event in events])


async def test_the_request_for_a_summary_is_found_in_the_providers_cache(tmp_path: Path) -> None:
    model = ThinkingModel(forgetful)
    async with world(tmp_path, {}, change=with_model(model)) as daemon:
        daemon.links.tool = of_length
        await daemon.finished(ALONE)
    place = next(place for place, request in enumerate(model.requests) if asks_for_a_summary(request))
    before, asked = (sent(model.requests[place - back]) for back in (1, 0))
    marked = [turn for turn in before["messages"] if "cache_control" in str(turn)][-1]
    reached = without_marks(before["messages"][: before["messages"].index(marked) + 1])
    assert without_marks(asked["messages"])[: len(reached)] == reached
    assert (asked["tools"], asked["system"]) == (before["tools"], before["system"])
    assert str(asked).count("cache_control") == 4
    assert ASK in str(asked["messages"][-1]["content"][-1]["text"])


def sent(request: ModelRequest) -> dict[str, Any]:
    return body(request, {}, datetime(2026, 11, 21, tzinfo=UTC))


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_marks(item) for key, item in value.items() if key != "cache_control"}
    return [without_marks(item) for item in value] if isinstance(value, list) else value


async def test_two_runs_of_one_expert_begin_alike_byte_for_byte(tmp_path: Path) -> None:
    model = ThinkingModel(lambda _request: says("Done."))
    async with world(tmp_path, {}, change=with_model(model)) as daemon:
        await daemon.finished(ALONE, query="row the boat")
        await daemon.finished(ALONE, query="rest a while", workspace=NAMED)
    one, other = ({key: json.dumps(sent(request)[key]) for key in ("tools", "system")} for request in model.requests)
    assert one == other
    assert "boat" not in str(one)


async def test_a_summary_shows_nothing_to_those_who_watch_the_answer(tmp_path: Path) -> None:
    async with world(tmp_path, {}, change=with_model(ThinkingModel(forgetful))) as daemon:
        daemon.links.tool = of_length
        record = await daemon.start(ALONE)
        with anyio.fail_after(10):
            batches = [batch async for batch in daemon.jobs.watch(record.id, 0, streaming=True, follow=True)]
    assert "4711" not in str([piece for batch in batches for piece in batch.pieces if "locker:" in piece.delta])


async def test_a_provider_that_refuses_the_length_is_asked_again_with_less(tmp_path: Path) -> None:
    refused = PerstackError(Kind.INVALID, "context_too_long", "prompt is too long")

    def answer(request: ModelRequest) -> Turn:
        if not asks_for_a_summary(request) and HEAD not in shown(request) and len(request.messages) > 4:
            raise refused
        return forgetful(request)

    model = ThinkingModel(answer)
    async with world(tmp_path, {}, change=with_model(model, 1_000_000)) as daemon:
        daemon.links.tool = of_length
        record, events = await daemon.finished(ALONE)
    assert (record.state, record.answer) == (JobState.COMPLETED, "The code is 4711.")
    kinds = types_of(events)
    at = kinds.index("retry")
    assert kinds[at : at + 3] == ["retry", "contextCompacted", "startGeneration"]


async def test_without_a_summary_the_run_goes_on_until_its_provider_refuses_it(tmp_path: Path) -> None:
    def answer(request: ModelRequest) -> Turn:
        if asks_for_a_summary(request):
            raise PerstackError(Kind.INVALID, "model_refused_request", "no such thing")
        if len(request.messages) > 6:
            raise PerstackError(Kind.INVALID, "context_too_long", "prompt is too long")
        return forgetful(request)

    async with world(tmp_path, {}, change=with_model(ThinkingModel(answer))) as daemon:
        daemon.links.tool = of_length
        record, events = await daemon.finished(ALONE)
    assert (record.state, record.error_reason) == (JobState.FAILED, "context_too_long")
    failed = [event.payload for event in events if isinstance(event.payload, CompactionFailed)]
    assert [fact.given_up for fact in failed] == [True, True]


async def test_a_restart_does_not_lose_a_compaction(tmp_path: Path) -> None:
    held, store = Held(says("never")), FakeStore()

    def first(request: ModelRequest) -> Turn | Held:
        return held if asks_for_a_summary(request) else forgetful(request)

    async with world(tmp_path, {}, store=store, change=with_model(ThinkingModel(first))) as daemon:
        daemon.links.tool = of_length
        record = await daemon.start(ALONE, workspace=NAMED)
        with anyio.fail_after(10):
            await held.reached.wait()
    model = ThinkingModel(forgetful)
    async with world(tmp_path, {}, machine=Machine.rebooted(tmp_path, store), change=with_model(model)) as daemon:
        daemon.links.tool = of_length
        events = await daemon.events(record.id)
        record = await daemon.jobs.get(record.id)
    assert (record.state, record.answer) == (JobState.COMPLETED, "The code is 4711.")
    assert types_of(events).count("contextCompacted") == 1
    assert asks_for_a_summary(model.requests[0])


# --- artefacts ------------------------------------------------------------------------------------------------------
LINES = [f"row {number} of the ship's log" for number in range(20_000)]
LINES[11_111] = "row 11111: the Anchor was lost at noon"
LOG = "\n".join(LINES).encode()
DIGEST = f"sha256:{hashlib.sha256(LOG).hexdigest()}"
SHORT = DIGEST[7:19]


def with_blob(daemon: World, data: bytes = LOG) -> Callable[[RoutedCall], ToolResultPart]:
    """A tool whose result comes up as a blob, as a runner sends it."""

    def tool(call: RoutedCall) -> ToolResultPart:
        (claimed,) = [row for row in daemon.pool.records() if row.job_id and row.state == "claimed"]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for offset in range(0, len(data), 256 << 10):
            piece = data[offset : offset + (256 << 10)]
            daemon.links.made[claimed.id].push(BlobChunk(digest, offset, piece, offset + len(piece) == len(data)))
        return ToolResultPart(call.call_id, (BlobPart(digest, len(data), "text/plain; charset=utf-8"),))

    return tool


async def test_what_stands_only_in_an_artefacts_middle_is_found_and_read(tmp_path: Path) -> None:
    def answer(request: ModelRequest) -> Turn:
        match len(request.messages):
            case 1:
                return calls(("exec", {"command": "cat"}), prefix="cat")
            case 3:
                seen = last_result(request)
                assert "row 0 " in seen
                assert "row 19999 " in seen
                assert "Anchor" not in seen
                assert len(seen) < 5_000
                return calls(("searchHistory", {"pattern": '"the anchor" lost'}), prefix="search")
            case 5:
                (match,) = json.loads(last_result(request))["matches"]
                read = {"id": match["artifact"], "from": match["line"], "to": match["line"] + 2}
                return calls(("readArtifact", read), ("healthCheck", {}), prefix="read")
            case _:
                found = re.search(r"row 11111: (.*)\nrow 11112 of", last_result(request))
                return says(f"It says: {found[1] if found else 'nothing'}.")

    async with world(tmp_path, {}, change=with_model(ThinkingModel(answer), 1_000_000)) as daemon:
        daemon.links.tool = with_blob(daemon)
        record, _ = await daemon.finished(ALONE)
    assert record.answer == "It says: the Anchor was lost at noon."


async def read_in_another_job(tmp_path: Path, wanted: JsonObject) -> str:
    """What comes of a read after a first job left the ship's log in the same store."""

    def answer(request: ModelRequest) -> Turn:
        query = _text(request.messages[0].parts[0])
        if len(request.messages) > 1:
            return says(last_result(request))
        return calls(("exec", {})) if query == "fill" else calls(("readArtifact", wanted))

    async with world(tmp_path, {}, change=with_model(ThinkingModel(answer), 1_000_000)) as daemon:
        daemon.links.tool = with_blob(daemon)
        await daemon.finished(ALONE, query="fill")
        assert DIGEST in daemon.store.contents
        record, _ = await daemon.finished(ALONE, query="read")
    return record.answer


@pytest.mark.parametrize("wanted", [DIGEST, SHORT, "sha256:"])
async def test_another_jobs_artefact_is_not_there_even_for_who_knows_its_digest(tmp_path: Path, wanted: str) -> None:
    answer = await read_in_another_job(tmp_path, {"id": wanted})
    assert json.loads(answer)["error"] == "invalid_arguments"
    assert "ship" not in answer


TEAM = '[experts.lead]\ninstruction = "Lead."\ndelegates = ["helper"]\n[experts.helper]\ninstruction = "Help."\n'


@pytest.mark.parametrize(("query", "reads"), [("look around", False), (f"read artefact {SHORT}", True)])
async def test_a_delegate_reads_its_parents_artefacts_only_when_it_was_given_their_id(
    tmp_path: Path, query: str, reads: bool
) -> None:
    def helper(request: ModelRequest) -> Turn:
        match len(request.messages):
            case 1:
                wanted: JsonObject = {"id": SHORT, "to": 1}
                return calls(("readArtifact", wanted), ("searchHistory", {"pattern": "lead knows"}), prefix="help")
            case _:
                return says(last_result(request))

    def answer(request: ModelRequest) -> Turn:
        if "Help." in request.system:
            return helper(request)
        match len(request.messages):
            case 1:
                return calls(("exec", {"command": "what the lead knows"}), prefix="cat")
            case 3:
                return calls(("helper", {"query": query}), prefix="ask")
            case _:
                return says(last_result(request))

    async with world(tmp_path, {}, change=with_model(ThinkingModel(answer), 1_000_000)) as daemon:
        daemon.links.tool = with_blob(daemon)
        record, _ = await daemon.finished(TEAM)
    assert ("row 0 of the ship" in record.answer) == reads
    assert '"matches":[]' in record.answer.replace("\\", "")
