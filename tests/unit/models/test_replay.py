"""Recorded conversations: their digests, their file, what replays them and what makes them."""

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from perstackd.adapters.models.conversation import RecordedTurn, decode, encode
from perstackd.adapters.models.digest import Digester
from perstackd.adapters.models.recorder import RecordingModels
from perstackd.adapters.models.replay import ReplayModels
from perstackd.adapters.models.router import ModelRouter
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    Message,
    ModelEvent,
    ModelRequest,
    ProviderPart,
    ProviderSkill,
    Role,
    TextDelta,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Turn,
    Usage,
)
from perstackd.ports.models import Models
from tests.fakes.models import Flaky, ScriptedModels, calls, says

TOOLS = (ToolSpec("exec", "Runs.", {"type": "object"}),)
HELLO = ModelRequest("anthropic", "m-1", "Be kind.", TOOLS, (Message(Role.USER, (TextPart("Hello"),)),))
DIGEST = "sha256:" + "0" * 64
FULL = Turn(
    (
        ThinkingPart("hm", "sig", ""),
        ThinkingPart("", "", "enc"),
        TextPart("Sö\ud800"),
        ToolCallPart("c", "exec", {"a": [1, None]}),
        ThinkingPart("ha", "rs_1", "enc", provider="openai"),
        ProviderPart("openai", '{"type":"web_search_call"}'),
        TextPart("Sunny", provider="openai", document='{"phase":"final_answer"}'),
    ),
    FinishReason.TOOL_CALLS,
    Usage(1, 2, 3, 4, 5),
    "m-1",
    ("asked for in another form",),
)


def digest(request: ModelRequest) -> str:
    return Digester().digest(request)


async def collect(models: Models, asked: ModelRequest = HELLO) -> list[ModelEvent]:
    with anyio.fail_after(30):
        return [event async for event in models.stream(asked)]


def longer(request: ModelRequest, *parts: ToolResultPart | TextPart) -> ModelRequest:
    return replace(request, messages=(*request.messages, Message(Role.USER, parts)))


def test_equal_requests_have_equal_digests_whoever_computes_them() -> None:
    again = replace(
        HELLO,
        messages=(Message(Role.USER, (TextPart("Hello"),)),),
        tools=(ToolSpec("exec", "Runs.", {"type": "object"}),),
    )
    assert digest(HELLO) == digest(again)
    assert digest(HELLO).startswith("sha256:")


@pytest.mark.parametrize(
    "other",
    [
        replace(HELLO, model="m-2"),
        replace(HELLO, system="Be kind"),
        replace(HELLO, reasoning="high"),
        replace(HELLO, tools=()),
        replace(HELLO, tools=(ToolSpec("exec", "Runs.", {"type": "object", "properties": {}}),)),
        replace(HELLO, tools=(ToolSpec("exec", "Runs", {"type": "object"}),)),
        replace(HELLO, messages=(Message(Role.USER, (TextPart("Hello "),)),)),
        replace(HELLO, messages=(Message(Role.ASSISTANT, (TextPart("Hello"),)),)),
        replace(HELLO, messages=(Message(Role.USER, (TextPart("Hel"), TextPart("lo"))),)),
        replace(HELLO, messages=()),
        longer(HELLO, TextPart("x")),
        replace(HELLO, provider_tools=("webSearch",)),
        replace(HELLO, provider_tool_options='{"webSearch":{"maxUses":1}}'),
        replace(HELLO, provider_skills=(ProviderSkill("builtin", "pdf"),)),
        replace(HELLO, messages=(Message(Role.USER, (TextPart("Hello", provider="a", document="{}"),)),)),
        replace(HELLO, messages=(Message(Role.USER, (*HELLO.messages[0].parts, ProviderPart("a", "{}"))),)),
    ],
)
def test_whatever_a_model_is_told_is_in_the_digest(other: ModelRequest) -> None:
    assert digest(other) != digest(HELLO)


@pytest.mark.parametrize(
    "same",
    [
        replace(HELLO, provider="proxy"),
        replace(HELLO, base_url="https://x.example"),
        replace(HELLO, headers=(("a", "b"),)),
        replace(HELLO, timeout_ms=1),
        replace(HELLO, max_tokens=1),
        replace(HELLO, tools=(ToolSpec("exec", "Runs.", {"type": "object"}, read_only=True, idempotent=True),)),
    ],
)
def test_how_a_model_is_reached_is_not_in_the_digest(same: ModelRequest) -> None:
    assert digest(same) == digest(HELLO)


def test_a_digester_that_remembers_says_what_a_new_one_says() -> None:
    """Growing, branching, repeating and shrinking histories, and an error flag deep inside."""
    digester = Digester(messages_kept=5)
    first = longer(HELLO, ToolResultPart("c", (TextPart("a"), BlobPart(DIGEST, 1, "image/png"))))
    branch = longer(HELLO, ToolResultPart("c", (TextPart("a"), BlobPart(DIGEST, 1, "image/png")), is_error=True))
    long = longer(longer(longer(longer(first, TextPart("1")), TextPart("2")), TextPart("3")), TextPart("4"))
    other = replace(long, system="Other")
    empty = replace(HELLO, messages=())
    for request in (HELLO, first, first, branch, long, HELLO, other, long, empty, branch, HELLO):
        assert digester.digest(request) == digest(request)


def test_a_digester_tells_requests_for_different_provider_tools_apart() -> None:
    digester = Digester()
    with_tools = replace(HELLO, provider_tools=("webSearch",))
    assert [digester.digest(one) for one in (HELLO, with_tools, HELLO)] == [
        digest(one) for one in (HELLO, with_tools, HELLO)
    ]


def test_a_digest_is_what_it_was_when_conversations_were_recorded() -> None:
    """Changing how digests are made turns every recorded conversation into waste paper: do it on purpose only."""
    assert digest(HELLO) == "sha256:9eaaacaed2d7f43d0330ef03cdd3f32010499974683f82cb8a6a2830d6331df0"


def test_a_line_goes_there_and_back() -> None:
    recorded = RecordedTurn(DIGEST, "coach", FULL, "the first one")
    assert decode(encode(recorded), "x.jsonl", 1) == recorded
    assert "\n" not in encode(recorded)


def broken(**changes: object) -> str:
    line = json.loads(encode(RecordedTurn(DIGEST, "coach", says("Hi"))))
    return json.dumps({key: value for key, value in {**line, **changes}.items() if value != "gone"})


def turn(**changes: object) -> str:
    line = json.loads(encode(RecordedTurn(DIGEST, "coach", says("Hi"))))
    return json.dumps({**line, "turn": {**line["turn"], **changes}})


@pytest.mark.parametrize(
    ("line", "says_what"),
    [
        ("{", "no JSON"),
        ("[]", "the line must be a JSON object"),
        (broken(digest="gone"), '"digest" is missing'),
        (broken(digest="sha256:12"), "64 hexadecimal digits"),
        (broken(expert=5), '"expert" must be a string'),
        (broken(extra=1), "unknown key 'extra'"),
        (broken(turn="gone"), '"turn" is missing'),
        (broken(turn=[]), '"turn" must be a JSON object'),
        (turn(finishReason="over"), '"finishReason" must be one of'),
        (turn(parts={}), '"parts" must be an array'),
        (turn(parts=[{"type": "image"}]), "a part's type must be text, thinking, toolCall or provider"),
        (turn(parts=[{"type": "text", "text": "x", "y": 1}]), "a text part has the unknown key 'y'"),
        (turn(parts=[{"type": "toolCall", "callId": "a", "name": "b", "arguments": []}]), '"arguments" must be'),
        (turn(usage={"inputTokens": -1}), '"usage.inputTokens" must be a whole number'),
        (turn(usage={"inputTokens": True}), '"usage.inputTokens" must be a whole number'),
        (turn(usage={"tokens": 1}), "unknown key 'tokens'"),
    ],
)
def test_a_damaged_line_is_told_with_its_number(line: str, says_what: str) -> None:
    with pytest.raises(PerstackError) as caught:
        decode(line, "demo.jsonl", 17)
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "conversation_invalid")
    assert caught.value.message.startswith("demo.jsonl, line 17: ")
    assert says_what in caught.value.message


@pytest.mark.anyio
async def test_a_recorded_conversation_is_replayed_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    path.write_text(f"\n{encode(RecordedTurn(digest(HELLO), 'coach', FULL))}\n\n")
    events = await collect(ReplayModels(path))
    assert events[-1] == FULL
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["S", "ö", "\ud800", "Su", "nn", "y"]


@pytest.mark.anyio
async def test_a_request_that_was_not_recorded_is_told_with_all_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    path.write_text(encode(RecordedTurn(DIGEST, "coach", says("Hi"))))
    with pytest.raises(PerstackError) as caught:
        await collect(ReplayModels(path))
    assert (caught.value.kind, caught.value.reason) == (Kind.NOT_FOUND, "no_recorded_turn")
    for expected in (digest(HELLO), str(path), "has 1 turns", "record the conversation again"):
        assert expected in caught.value.message


@pytest.mark.anyio
@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "not-utf8"])
async def test_a_file_that_cannot_be_read_is_told_and_tried_again_later(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "demo.jsonl"
    if content is not None:
        path.write_bytes(content)
    models = ReplayModels(path)
    with pytest.raises(PerstackError) as caught:
        await models.warm()
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "conversation_unreadable")
    path.write_text(encode(RecordedTurn(digest(HELLO), "coach", says("Hi"))))
    assert (await collect(models))[-1] == says("Hi")


@pytest.mark.anyio
async def test_what_is_recorded_is_on_disk_before_it_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    models = RecordingModels(ScriptedModels({"": [says("Hi")]}), path, lambda request: request.model)
    async for event in models.stream(HELLO):
        if isinstance(event, Turn):
            assert decode(path.read_text(), "demo", 1) == RecordedTurn(digest(HELLO), "m-1", says("Hi"))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.anyio
async def test_recording_again_appends_and_the_later_turn_counts(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    for answer in ("first", "second"):
        await collect(RecordingModels(ScriptedModels({"": [says(answer)]}), path))
    assert len(path.read_text().splitlines()) == 2
    assert (await collect(ReplayModels(path)))[-1] == says("second")


@pytest.mark.anyio
async def test_errors_of_the_model_are_passed_on_unrecorded(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    overloaded = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True)
    inner = ScriptedModels({"": [Flaky((overloaded,), says("Hi"))]})
    models = RecordingModels(inner, path)
    with pytest.raises(PerstackError, match="busy"):
        await collect(models)
    assert not path.exists()
    assert (await collect(models))[-1] == says("Hi")
    await models.close()
    assert inner.closed


@pytest.mark.anyio
async def test_a_turn_that_cannot_be_recorded_is_not_passed_on(tmp_path: Path) -> None:
    models = RecordingModels(ScriptedModels({"": [says("Hi")]}), tmp_path / "gone" / "demo.jsonl")
    with pytest.raises(PerstackError) as caught:
        await collect(models)
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "conversation_unwritable")


@pytest.mark.anyio
async def test_turns_of_many_runs_at_once_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    models = RecordingModels(ScriptedModels({"": [calls(("exec", {"x": "y" * 20_000}))]}), path)
    async with anyio.create_task_group() as group:
        for number in range(20):
            asked = replace(HELLO, messages=(Message(Role.USER, (TextPart(str(number)),)),))
            group.start_soon(collect, models, asked)
    assert len({decode(line, "x", 1).digest for line in path.read_text().splitlines()}) == 20


@pytest.mark.anyio
async def test_the_router_makes_a_provider_once_and_only_when_it_is_asked_for() -> None:
    made: list[ScriptedModels] = []

    def make() -> Models:
        made.append(ScriptedModels({"": [says("Hi")]}))
        return made[-1]

    router = ModelRouter({"anthropic": make, "other": make})
    assert made == []
    for _ in range(2):
        assert (await collect(router))[-1] == says("Hi")
    assert len(made) == 1
    await router.close()
    await router.close()
    assert made[0].closed


@pytest.mark.anyio
@pytest.mark.parametrize("provider", ["google", "openai", "amazon-bedrock", "google-vertex", ""])
async def test_a_provider_that_is_not_there_is_told_with_those_that_are(provider: str) -> None:
    router = ModelRouter({"anthropic": lambda: ScriptedModels({}), "replay": lambda: ScriptedModels({})})
    with pytest.raises(PerstackError) as caught:
        await collect(router, replace(HELLO, provider=provider))
    assert (caught.value.kind, caught.value.reason) == (Kind.UNSUPPORTED, "provider_not_there")
    assert "anthropic, replay" in caught.value.message
    assert "models.compatible.NAME.base_url" in caught.value.message
    absent = provider in ("google", "amazon-bedrock", "google-vertex")
    assert (f"cannot speak to the model provider {provider!r} yet" in caught.value.message) is absent
    assert caught.value.fields["provider"] == provider
    assert router.problem(provider) == caught.value.message
    assert router.problem("anthropic") == ""
