"""The archive's two tools over a job's log: ranges, searches, who sees what, what is refused."""

import json

import pytest

from perstackd.app.archive import MAX_HITS, READ_BYTES, SHOWN_CHARACTERS, Archive
from perstackd.domain.context_search import PIECE
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    CallTools,
    ContextCompacted,
    Event,
    HistoryInherited,
    Origin,
    Payload,
    QuestionAnswered,
    QuestionKind,
    ResolveToolResults,
    Retry,
    StartRun,
    StoredEvent,
)
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, RunId
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    JsonObject,
    Message,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
START = StartRun("find the anchor", "You are.", (), (), "replay", "m", "low")
OWN, CHILD, OTHER = RunId("own"), RunId("child"), RunId("other")


class Log:
    """Stands in for the job's log: what it is made of, in pages."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.store = FakeStore()
        self.broken = False

    def add(self, *payloads: Payload, run: RunId = OWN, parent: RunId = RunId(""), step: int = 1) -> None:
        for payload in payloads:
            number = len(self.events) + 1
            origin = Origin(run, parent, f"expert of {run}", step)
            event = Event(EventId(str(number)), number, DEFAULT_TENANT, JobId("job"), origin, 0, payload)
            self.events.append(StoredEvent(event, b""))

    async def read(self, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
        if self.broken:
            raise PerstackError(Kind.UNAVAILABLE, "store_unavailable", "the disk is gone")
        return tuple(self.events[after_seq : after_seq + limit])

    async def artefact(self, data: bytes, call_id: str = "a", media_type: str = "text/plain") -> str:
        """Keep it and refer to it; its id."""
        digest = await self.store.blobs.put(data)
        blob = BlobPart(digest, len(data), media_type)
        self.add(ResolveToolResults((ToolResultPart(call_id, (blob,)),)))
        return digest[7:19]

    async def ask(self, tool: str, arguments: JsonObject, run: RunId = OWN, query: str = "") -> ToolResultPart:
        archive = Archive(self, self.store.blobs, run)  # type: ignore[arg-type]
        return await archive.answer(ToolCallPart("x", tool, arguments), query)


def turn(*parts: TextPart | ToolCallPart | ThinkingPart) -> Turn:
    return Turn(parts, FinishReason.TOOL_CALLS, Usage(1, 1))


def texts(result: ToolResultPart) -> list[str]:
    return [part.text for part in result.content if isinstance(part, TextPart)]


def said(result: ToolResultPart) -> dict[str, object]:
    head: dict[str, object] = json.loads(texts(result)[0])
    return head


def error(result: ToolResultPart) -> str:
    assert result.is_error
    return str(said(result)["message"])


# --- reading --------------------------------------------------------------------------------------------------------
LINES = [f"line {number}" for number in range(100_000)]


async def test_lines_are_read_from_the_middle_of_a_large_text() -> None:
    log = Log()
    name = await log.artefact("\n".join(LINES).encode())
    result = await log.ask("readArtifact", {"id": name, "from": 70_000, "to": 70_003})
    assert texts(result)[1] == "line 70000\nline 70001\nline 70002\n"
    assert said(result) == {"id": name, "size": 1_088_889, "unit": "lines", "from": 70_000, "to": 70_003, "more": True}


async def test_a_read_is_bounded_and_says_where_to_go_on() -> None:
    log = Log()
    name = await log.artefact("\n".join(LINES).encode())
    result = await log.ask("readArtifact", {"id": name, "from": 10})
    assert len(texts(result)[1]) == READ_BYTES
    head = said(result)
    assert head["more"] is True
    assert str(head["to"]) in str(head["note"])
    again = await log.ask("readArtifact", {"id": name, "from": head["to"]})  # type: ignore[dict-item]
    assert texts(again)[1].startswith(f"line {head['to']}\n")


async def test_the_end_is_told() -> None:
    log = Log()
    name = await log.artefact(b"one\ntwo\nthree")
    result = await log.ask("readArtifact", {"id": name, "from": 1})
    assert (texts(result)[1], said(result)["more"]) == ("two\nthree", False)


async def test_bytes_are_read_of_a_text_without_lines() -> None:
    log = Log()
    name = await log.artefact(b"x" * 500_000 + b"needle" + b"x" * 500_000)
    result = await log.ask("readArtifact", {"id": name, "bytes": True, "from": 500_000, "to": 500_006})
    assert texts(result)[1] == "needle"
    whole = await log.ask("readArtifact", {"id": name, "bytes": True, "from": 900_000})
    assert (len(texts(whole)[1]), said(whole)["to"], said(whole)["more"]) == (READ_BYTES, 900_000 + READ_BYTES, True)
    past = await log.ask("readArtifact", {"id": name, "bytes": True, "from": 2_000_000})
    assert (texts(past)[1], said(past)["more"]) == ("", False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "id has to be a text"),
        ({"id": 5}, "id has to be a text"),
        ({"id": "abc"}, "at least 8 characters"),
        ({"id": "sha256:"}, "at least 8 characters"),
        ({"id": "abcdefabcdef"}, "no artefact 'abcdefabcdef' here; the latest are: "),
        ({"id": "NAME", "from": -1}, "from has to be a whole number"),
        ({"id": "NAME", "from": True}, "from has to be a whole number"),
        ({"id": "NAME", "from": 5, "to": 5}, "to has to be greater"),
    ],
)
async def test_what_is_wrong_with_a_call_is_said(arguments: JsonObject, says: str) -> None:
    log = Log()
    name = await log.artefact(b"text")
    result = await log.ask(
        "readArtifact", {key: name if value == "NAME" else value for key, value in arguments.items()}
    )
    assert says in error(result)


async def test_an_image_is_no_text_and_a_lost_blob_is_an_error() -> None:
    log = Log()
    image = await log.artefact(b"\x89PNG", media_type="image/png")
    assert "image/png and no text" in error(await log.ask("readArtifact", {"id": image}))
    text = await log.artefact(b"text")
    log.store.contents.clear()
    assert (await log.ask("readArtifact", {"id": text})).is_error


async def test_a_store_that_is_gone_is_an_error_result() -> None:
    log = Log()
    log.broken = True
    assert "the disk is gone" in error(await log.ask("searchHistory", {"pattern": "x"}))


# --- searching ------------------------------------------------------------------------------------------------------
async def found(log: Log, pattern: str, run: RunId = OWN, query: str = "", **more: int) -> list[dict[str, object]]:
    result = await log.ask("searchHistory", {"pattern": pattern, **more}, run, query)
    assert not result.is_error, texts(result)
    matches: list[dict[str, object]] = json.loads(texts(result)[0])["matches"]
    return matches


async def test_everything_that_was_said_called_answered_and_summed_up_is_found() -> None:
    log = Log()
    call = ToolCallPart("a", "exec", {"command": "grep anchor"})
    cut = Retry("turn_too_long", "cut", turn=turn(TextPart("the anchor, cut")))
    person = QuestionAnswered("1-1", "q", QuestionKind.TOOL, "answer", "I saw an ANCHOR")
    log.add(START)
    log.add(CallTools(turn(ThinkingPart("anchor?", "sig"), TextPart("I look for the anchor"), call)))
    log.add(ResolveToolResults((ToolResultPart("a", (TextPart("log:\nanchor lost\n"),)),)), cut, person, step=2)
    log.add(ContextCompacted("## Facts\nNo anchor.", 3, 100, Usage()), step=3)
    places = [(match["step"], match["in"], match["text"]) for match in await found(log, "anchor")]
    assert places == [
        (1, "query", "find the anchor"),
        (1, "said", "I look for the anchor"),
        (1, "call of exec", '{"command": "grep anchor"}'),
        (2, "result of exec", "anchor lost"),
        (2, "said", "the anchor, cut"),
        (2, "answer of a person", "I saw an ANCHOR"),
        (3, "summary", "No anchor."),
    ]


async def test_a_match_in_an_artefact_leads_to_its_line() -> None:
    log = Log()
    log.add(CallTools(turn(ToolCallPart("a", "exec", {}))))
    name = await log.artefact("\n".join(LINES).encode())
    (match,) = await found(log, '"line 77777"', context=1)
    assert match["text"] == "line 77776\nline 77777\nline 77778"
    assert (match["artifact"], match["line"], match["in"]) == (name, 77_777, "result of exec")
    read = await log.ask("readArtifact", {"id": name, "from": match["line"], "to": 77_778})  # type: ignore[dict-item]
    assert texts(read)[1] == "line 77777\n"


async def test_a_match_in_a_line_without_end_leads_near_its_byte() -> None:
    log = Log()
    name = await log.artefact(b"x" * (9 * PIECE) + b"needle" + b"x" * PIECE)
    (match,) = await found(log, "needle")
    near = int(str(match["nearByte"]))
    read = await log.ask("readArtifact", {"id": name, "bytes": True, "from": near, "to": near + READ_BYTES})
    assert "needle" in texts(read)[1]


async def test_what_was_looked_up_before_is_not_found_again() -> None:
    log = Log()
    log.add(CallTools(turn(ToolCallPart("s", "searchHistory", {"pattern": "anchor"}))))
    log.add(ResolveToolResults((ToolResultPart("s", (TextPart("anchor"),)),)))
    assert await found(log, "anchor") == []


async def test_an_inherited_history_is_searched_and_its_artefacts_are_read() -> None:
    log = Log()
    digest = await log.store.blobs.put(b"the anchor\n")
    messages = (
        Message(Role.USER, (TextPart("look"),)),
        Message(Role.ASSISTANT, (ToolCallPart("a", "exec", {"command": "anchor"}),)),
        Message(Role.TOOL, (ToolResultPart("a", (BlobPart(digest, 11, "text/plain"),)),)),
    )
    log.add(HistoryInherited("before", "run", 9, START, messages))
    assert [match["in"] for match in await found(log, "anchor")] == ["call of exec", "result of exec"]
    assert texts(await log.ask("readArtifact", {"id": digest}))[1] == "the anchor\n"


def answered(call_id: str, text: str) -> ResolveToolResults:
    return ResolveToolResults((ToolResultPart(call_id, (TextPart(text),)),))


async def test_a_run_sees_what_it_delegated_and_not_what_stands_above_or_beside_it() -> None:
    log = Log()
    log.add(START, answered("a", "anchor of the parent"))
    log.add(START, answered("a", "anchor of the child"), run=CHILD, parent=OWN)
    log.add(START, answered("a", "anchor of the grandchild"), run=OTHER, parent=CHILD)
    of_parent = [match["text"] for match in await found(log, "anchor of")]
    assert of_parent == ["anchor of the parent", "anchor of the child", "anchor of the grandchild"]
    assert [match.get("expert") for match in await found(log, "anchor of")] == [
        None,
        "expert of child",
        "expert of other",
    ]
    assert [match["text"] for match in await found(log, "anchor of", CHILD)] == of_parent[1:]
    assert [match["text"] for match in await found(log, "anchor of", OTHER)] == of_parent[2:]


@pytest.mark.parametrize("named", [False, True])
async def test_a_parents_artefact_is_its_childs_only_by_name(named: bool) -> None:
    log = Log()
    name = await log.artefact(b"secret of the parent\n")
    log.add(START, run=CHILD, parent=OWN)
    query = f"look at {name}" if named else "look around"
    assert (await log.ask("readArtifact", {"id": name}, CHILD, query)).is_error is not named
    assert bool(await found(log, "secret", CHILD, query)) is named


@pytest.mark.parametrize("limit", [None, 3, 10_000])
async def test_what_comes_back_is_bounded(limit: int | None) -> None:
    log = Log()
    for number in range(200):
        log.add(answered(f"c{number}", f"anchor {number} " + "x" * 5_000))
    arguments: JsonObject = {"pattern": "anchor", "context": 99, **({"limit": limit} if limit else {})}
    result = await log.ask("searchHistory", arguments)
    body = json.loads(texts(result)[0])
    assert body["more"] is True
    assert len(body["matches"]) <= min(limit or 20, MAX_HITS)
    assert len(texts(result)[0]) < 2 * SHOWN_CHARACTERS


async def test_a_search_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr("perstackd.app.archive.SEARCH_SECONDS", 0.0)
    log.add(START)
    body = said(await log.ask("searchHistory", {"pattern": "anchor"}))
    assert body == {"matches": [], "more": False, "cut": "time"}


async def test_a_search_through_very_much_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr("perstackd.app.archive.SEARCHED_BYTES", 4 * PIECE)
    await log.artefact(b"x" * PIECE * 9 + b"needle")
    assert said(await log.ask("searchHistory", {"pattern": "needle"})) == {"matches": [], "more": False, "cut": "size"}


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "[", "\\", "a{9999999}", "*"])
async def test_an_expression_is_nothing_but_its_characters(pattern: str) -> None:
    log = Log()
    log.add(answered("a", f"{'x' * 5_000} {pattern} {'x' * 5_000}"))
    assert len(await found(log, pattern)) == 1
