"""Our request as the body of the Messages API."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from perstackd.adapters.models.anthropic_request import MAX_IMAGE_BYTES, body, wanted_blobs
from perstackd.adapters.models.thinking import Off, family_of, mapped, nearest_level, thinking_for
from perstackd.domain.messages import (
    BlobPart,
    Message,
    ModelRequest,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TOOLS = (ToolSpec("exec", "Runs.", {"properties": {"command": {"type": "string"}}}), ToolSpec("todo", "Notes.", {}))
IMAGE = BlobPart("sha256:aa", 1000, "image/png")


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text),))


def step(number: int) -> tuple[Message, Message]:
    """A call and its result."""
    call = ToolCallPart(f"call_{number}", "exec", {"command": "ls"})
    result = ToolResultPart(call.call_id, (TextPart(f"result {number}"),))
    return Message(Role.ASSISTANT, (call,)), Message(Role.TOOL, (result,))


def made(*messages: Message, model: str = "claude-sonnet-5", blobs: dict[str, str] | None = None) -> dict[str, Any]:
    request = ModelRequest("anthropic", model, "Be kind.", TOOLS, messages)
    return cast("dict[str, Any]", body(request, blobs or {}, NOW))


def marks(value: object) -> int:
    """How many cache marks are in it."""
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(marks(item) for item in value.values())
    return sum(marks(item) for item in value) if isinstance(value, list) else 0


def test_all_results_of_a_turn_go_back_in_one_message_with_what_the_user_says_after_them() -> None:
    calls = Message(Role.ASSISTANT, (ToolCallPart("a", "exec", {}), ToolCallPart("b", "todo", {})))
    results = [Message(Role.TOOL, (ToolResultPart(name, (TextPart("ok"),)),)) for name in "ab"]
    sent = made(user("Go"), calls, *results, user("And then stop"))["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert [block.get("tool_use_id") for block in sent[2]["content"]] == ["a", "b", None]


def test_signatures_redacted_and_empty_thinking_go_back_untouched() -> None:
    parts = (ThinkingPart("", "sig"), ThinkingPart("hm", "sig2"), ThinkingPart("", redacted="enc"), TextPart("Yes"))
    sent = made(user("Go"), Message(Role.ASSISTANT, parts), user("On"))["messages"]
    assert sent[1]["content"] == [
        {"type": "thinking", "thinking": "", "signature": "sig"},
        {"type": "thinking", "thinking": "hm", "signature": "sig2"},
        {"type": "redacted_thinking", "data": "enc"},
        {"type": "text", "text": "Yes"},
    ]


def test_what_the_api_refuses_is_left_out() -> None:
    said = Message(Role.ASSISTANT, (ThinkingPart("of another provider"), TextPart(" \n"), TextPart("Yes")))
    silent = Message(Role.ASSISTANT, (TextPart(""),))
    sent = made(user("Go"), said, user("On"), silent, user("And on"))["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == [{"type": "text", "text": "Yes"}]
    assert [block["text"] for block in sent[2]["content"]] == ["On", "And on"]


def test_a_failed_call_says_so() -> None:
    result = Message(Role.TOOL, (ToolResultPart("a", (TextPart("no such file"),), is_error=True),))
    sent = made(user("Go"), Message(Role.ASSISTANT, (ToolCallPart("a", "exec", {}),)), result)["messages"]
    assert sent[2]["content"][0]["is_error"] is True


def test_the_cache_marks_are_at_the_last_tool_the_system_prompt_and_the_last_two_user_turns() -> None:
    sent = made(user("Go"), *step(1), *step(2), *step(3))
    assert "cache_control" in sent["tools"][-1]
    assert "cache_control" in sent["system"][0]
    assert [marks(message) for message in sent["messages"]] == [0, 0, 0, 0, 1, 0, 1]
    assert marks(sent) == 4


def test_a_longer_history_repeats_the_shorter_one_but_for_the_marks() -> None:
    """The provider's cache is found by the prefix."""

    def without_marks(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_marks(item) for key, item in value.items() if key != "cache_control"}
        return [without_marks(item) for item in value] if isinstance(value, list) else value

    short, long = made(user("Go"), *step(1)), made(user("Go"), *step(1), *step(2))
    assert long["tools"] == short["tools"]
    assert long["system"] == short["system"]
    assert without_marks(long["messages"])[: len(short["messages"])] == without_marks(short["messages"])


def test_every_schema_is_of_an_object() -> None:
    assert [tool["input_schema"]["type"] for tool in made(user("Go"))["tools"]] == ["object", "object"]


def test_without_tools_and_system_prompt_the_fields_are_absent() -> None:
    sent = body(ModelRequest("anthropic", "claude-sonnet-5", "", (), (user("Go"),)), {}, NOW)
    assert "tools" not in sent
    assert "system" not in sent


def test_an_image_is_shown_if_its_bytes_are_there_and_named_if_not() -> None:
    result = Message(Role.TOOL, (ToolResultPart("a", (TextPart("seen"), IMAGE)),))
    call = Message(Role.ASSISTANT, (ToolCallPart("a", "readImageFile", {}),))
    shown = made(user("Go"), call, result, blobs={IMAGE.digest: "QUJD"})["messages"][2]["content"][0]["content"]
    assert shown[1] == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    named = made(user("Go"), call, result)["messages"][2]["content"][0]["content"]
    assert named[1]["text"] == "[image/png, 1000 bytes, sha256:aa: not shown]"


def test_blobs_are_chosen_newest_first_within_what_a_request_may_weigh() -> None:
    big = [BlobPart(f"sha256:{n}", MAX_IMAGE_BYTES, "image/png") for n in range(6)]
    odd = (BlobPart("sha256:zip", 10, "application/zip"), BlobPart("sha256:huge", MAX_IMAGE_BYTES + 1, "image/png"))
    messages = tuple(Message(Role.USER, (blob,)) for blob in (*big, *odd))
    wanted = wanted_blobs(ModelRequest("anthropic", "m", "", (), messages))
    assert [blob.digest for blob in wanted] == ["sha256:5", "sha256:4", "sha256:3", "sha256:2"]


@pytest.mark.parametrize(
    ("model", "adaptive", "off"),
    [
        ("claude-fable-5-2", True, Off.NEVER),
        ("claude-mythos-5-1", True, Off.NEVER),
        ("claude-opus-5-5", True, Off.NEVER),
        ("claude-sonnet-5-5", True, Off.BETWEEN_TOOLS),
        ("claude-haiku-5-5", True, Off.DISABLED),
        ("claude-opus-5", True, Off.DISABLED),
        ("claude-sonnet-5", True, Off.DISABLED),
        ("claude-opus-4-8", True, Off.DISABLED),
        ("claude-sonnet-4-6", True, Off.DISABLED),
        ("claude-opus-4-5-20251101", False, Off.OMIT),
        ("claude-haiku-4-5", False, Off.OMIT),
        ("claude-opus-4-1-20250805", False, Off.OMIT),
        ("claude-sonnet-4-20250514", False, Off.OMIT),
        ("claude-3-7-sonnet-20250219", False, Off.OMIT),
        ("us.anthropic.claude-sonnet-5", True, Off.DISABLED),
        ("claude-opus-7", True, Off.NEVER),
    ],
)
def test_each_family_is_told_in_its_own_way(model: str, adaptive: bool, off: Off) -> None:
    family = family_of(model)
    assert (family.thinks, family.adaptive, family.off) == (True, adaptive, off)


@pytest.mark.parametrize("model", ["claude-3-5-haiku-20241022", "claude-2.1", "glm-5", "my-model"])
def test_a_model_that_cannot_think_or_is_not_known_is_told_nothing(model: str) -> None:
    assert thinking_for(model, "high").fields == {}


def test_an_adaptive_model_gets_an_effort_and_room_for_it() -> None:
    sent = made(user("Go"))
    assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert sent["output_config"] == {"effort": "low"}
    assert sent["max_tokens"] == 8192 + 4096


@pytest.mark.parametrize("reasoning", ["minimal", "low", "medium", "high", 1, 1024, 30_000])
def test_a_budget_is_at_least_1024_and_leaves_the_answer_its_room(reasoning: str | int) -> None:
    request = ModelRequest("anthropic", "claude-haiku-4-5", "", (), (user("Go"),), reasoning)
    sent = cast("dict[str, Any]", body(request, {}, NOW))
    budget = sent["thinking"]["budget_tokens"]
    assert budget >= 1024
    assert sent["max_tokens"] == budget + 8192


@pytest.mark.parametrize("reasoning", ["none", 0])
@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("claude-haiku-4-5", {}),
        ("claude-sonnet-5", {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", {"thinking": {"type": "between_tools"}}),
        ("claude-fable-5", {"output_config": {"effort": "low"}}),
    ],
)
def test_thinking_is_turned_off_as_far_as_it_can_be(reasoning: str | int, model: str, fields: object) -> None:
    assert thinking_for(model, reasoning).fields == fields


@pytest.mark.parametrize(("tokens", "level"), [(1, "minimal"), (5000, "low"), (8000, "medium"), (10**6, "high")])
def test_a_number_of_tokens_is_the_nearest_effort_on_an_adaptive_model(tokens: int, level: str) -> None:
    assert nearest_level(tokens) == level
    effort = {"minimal": "low"}.get(level, level)
    assert thinking_for("claude-opus-5", tokens).fields["output_config"] == {"effort": effort}


@pytest.mark.parametrize(
    ("model", "reasoning", "says"),
    [
        ("claude-sonnet-5-5", 5000, "asked for as the effort low: it takes no number"),
        ("claude-opus-5-5", 8000, "asked for as the effort medium: it takes no number"),
        ("claude-sonnet-5", "minimal", "asked for as the effort low: it is the least one"),
        ("claude-opus-5-5", "none", "asked for as the effort low: it always thinks"),
        ("claude-opus-5-5", 0, "asked for as the effort low: it always thinks"),
        ("claude-haiku-4-5", 5, "asked for as a budget of 1024: it is the least one"),
        ("another-model", 5000, "has no effect: the model 'another-model' is not known to take one"),
    ],
)
def test_a_budget_that_is_asked_for_in_another_form_is_told(model: str, reasoning: str | int, says: str) -> None:
    assert says in mapped(model, reasoning)
    assert f"reasoningBudget {reasoning} " in mapped(model, reasoning)
    assert repr(model) in mapped(model, reasoning)


@pytest.mark.parametrize(
    ("model", "reasoning"),
    [
        *(("claude-sonnet-5-5", said) for said in ("none", 0, "low", "medium", "high")),
        *(("claude-haiku-4-5", said) for said in ("none", 0, "minimal", "low", "high", 1024, 20_000)),
        *(("another-model", said) for said in ("none", 0, "low", "high")),
    ],
)
def test_a_budget_that_is_asked_for_as_it_is_needs_no_note(model: str, reasoning: str | int) -> None:
    assert mapped(model, reasoning) == ""
