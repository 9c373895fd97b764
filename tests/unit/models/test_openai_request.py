"""Our request as the arguments of Chat Completions."""

from dataclasses import replace
from typing import Any, cast

import pytest

from perstackd.adapters.models.openai_request import MAX_IMAGE_BYTES, arguments_of, wanted_blobs
from perstackd.adapters.models.openai_settings import DEFAULTS, OpenAiSettings
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

TOOLS = (ToolSpec("exec", "Runs.", {"properties": {"command": {"type": "string"}}}), ToolSpec("todo", "Notes.", {}))
IMAGE = BlobPart("sha256:aa", 1000, "image/png")
OTHER = BlobPart("sha256:bb", 1000, "image/jpeg")
SHOWN = {IMAGE.digest: "QUJD", OTHER.digest: "REVG"}


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text),))


def made(
    *messages: Message, provider: str = "openai", model: str = "gpt-4.1", blobs: dict[str, str] | None = None
) -> dict[str, Any]:
    request = ModelRequest(provider, model, "Be kind.", TOOLS, messages)
    return cast("dict[str, Any]", arguments_of(request, DEFAULTS[provider], blobs or {}))


def sent(*messages: Message, provider: str = "openai", **options: Any) -> list[dict[str, Any]]:
    """The messages after the system prompt."""
    everything: list[dict[str, Any]] = made(*messages, provider=provider, **options)["messages"]
    assert everything[0] == {"role": "system", "content": "Be kind."}
    return everything[1:]


CALLS = Message(Role.ASSISTANT, (ToolCallPart("a", "exec", {"command": "ls ä"}), ToolCallPart("b", "todo", {})))


def results(*parts: ToolResultPart) -> Message:
    return Message(Role.TOOL, parts)


OK_A, OK_B = ToolResultPart("a", (TextPart("one"), TextPart("two"))), ToolResultPart("b", (TextPart("ok"),))


def test_calls_and_their_results_go_back_in_order_and_what_was_not_said_is_null() -> None:
    assert sent(user("Go"), CALLS, results(OK_A, OK_B), user("And then stop")) == [
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "exec", "arguments": '{"command":"ls ä"}'}},
                {"id": "b", "type": "function", "function": {"name": "todo", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "one\ntwo"},
        {"role": "tool", "tool_call_id": "b", "content": "ok"},
        {"role": "user", "content": "And then stop"},
    ]


def test_text_beside_calls_goes_back_with_them() -> None:
    said = Message(Role.ASSISTANT, (TextPart("I look. "), TextPart("Wait."), *CALLS.parts))
    assert sent(user("Go"), said)[1]["content"] == "I look. Wait."


def test_a_failed_call_says_so_in_words() -> None:
    failed = ToolResultPart("a", (TextPart("no such file"), IMAGE), is_error=True)
    entry = sent(user("Go"), CALLS, results(failed, OK_B), blobs=SHOWN)[2]
    assert entry["content"] == "Error: no such file\n[image/png, 1000 bytes, sha256:aa: not shown]"


@pytest.mark.parametrize("provider", ["openai", "ollama", "fireworks", "azure-openai"])
def test_reasoning_never_goes_back(provider: str) -> None:
    thought = Message(Role.ASSISTANT, (ThinkingPart("hm", "sig"), ThinkingPart("", redacted="enc"), *CALLS.parts))
    only = Message(Role.ASSISTANT, (ThinkingPart("hm"), TextPart(" ")))
    entries = sent(user("Go"), only, user("On"), thought, results(OK_A, OK_B), provider=provider, model="gpt-oss:20b")
    assert entries[0] == {"role": "user", "content": "Go\n\nOn"}
    assert "hm" not in str(entries)
    assert "reasoning" not in str(entries)


def test_deepseek_is_given_back_what_it_reasoned_before_a_call_since_it_refuses_the_history_without() -> None:
    thought = Message(Role.ASSISTANT, (ThinkingPart("hm"), *CALLS.parts))
    spoken = Message(Role.ASSISTANT, (ThinkingPart("so"), TextPart("Done")))
    history = (user("Go"), thought, results(OK_A, OK_B), CALLS, results(OK_A, OK_B), spoken, user("On"))
    entries = [
        entry for entry in sent(*history, provider="deepseek", model="deepseek-v4-pro") if entry["role"] == "assistant"
    ]
    assert [entry.get("reasoning_content") for entry in entries] == ["hm", "", None]


def test_deepseek_that_does_not_think_is_given_nothing_back() -> None:
    thought = Message(Role.ASSISTANT, (ThinkingPart("hm"), *CALLS.parts))
    request = ModelRequest("deepseek", "deepseek-v4-pro", "", TOOLS, (user("Go"), thought), reasoning="none")
    assert "reasoning_content" not in str(arguments_of(request, DEFAULTS["deepseek"], {}))


def test_images_of_results_wait_for_the_last_result_and_come_before_the_users_next_words() -> None:
    seen = ToolResultPart("a", (TextPart("seen"), IMAGE))
    entries = sent(user("Go"), CALLS, results(seen, OK_B), user("Well?"), blobs=SHOWN)
    assert [entry["role"] for entry in entries] == ["user", "assistant", "tool", "tool", "user"]
    shown = "[image/png, 1000 bytes, sha256:aa: shown in the next message of the user]"
    assert entries[2]["content"] == f"seen\n{shown}"
    assert entries[4]["content"] == [
        {"type": "text", "text": "[image/png, 1000 bytes, sha256:aa: a result]"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "text", "text": "Well?"},
    ]


def test_images_of_results_come_before_the_next_turn_as_well() -> None:
    seen = ToolResultPart("a", (IMAGE,))
    entries = sent(user("Go"), CALLS, results(seen, OK_B), CALLS, results(OK_A, OK_B), blobs=SHOWN)
    roles = [entry["role"] for entry in entries]
    assert roles == ["user", "assistant", "tool", "tool", "user", "assistant", "tool", "tool"]


def test_a_blob_that_cannot_be_shown_is_named() -> None:
    document = BlobPart("sha256:cc", 9, "application/pdf")
    entries = sent(user("Go"), CALLS, results(ToolResultPart("a", (IMAGE,)), OK_B), Message(Role.USER, (document,)))
    assert entries[2]["content"] == "[image/png, 1000 bytes, sha256:aa: not shown]"
    assert entries[4] == {"role": "user", "content": "[application/pdf, 9 bytes, sha256:cc: not shown]"}


def chosen(settings: OpenAiSettings, *blobs: BlobPart) -> list[str]:
    messages = tuple(Message(Role.USER, (blob,)) for blob in blobs)
    return [blob.digest for blob in wanted_blobs(ModelRequest("openai", "m", "", (), messages), settings)]


def test_images_are_chosen_newest_first_within_what_a_request_may_weigh() -> None:
    big = [BlobPart(f"sha256:{n}", MAX_IMAGE_BYTES, "image/png") for n in range(6)]
    odd = (BlobPart("sha256:pdf", 10, "application/pdf"), BlobPart("sha256:huge", MAX_IMAGE_BYTES + 1, "image/png"))
    assert chosen(DEFAULTS["openai"], *big, *odd) == ["sha256:5", "sha256:4", "sha256:3", "sha256:2"]


def test_a_provider_is_shown_only_images_that_it_takes() -> None:
    gif = BlobPart("sha256:gif", 10, "image/gif")
    assert chosen(DEFAULTS["openai"], gif) == ["sha256:gif"]
    assert chosen(DEFAULTS["ollama"], gif) == []
    assert chosen(DEFAULTS["deepseek"], gif, IMAGE) == []
    assert chosen(replace(DEFAULTS["ollama"], images=False), IMAGE) == []


def test_a_longer_history_repeats_the_shorter_one() -> None:
    """The provider's cache is found by the prefix."""
    short = made(user("Go"), CALLS, results(OK_A, OK_B))
    long = made(user("Go"), CALLS, results(OK_A, OK_B), CALLS, results(OK_A, OK_B))
    assert long["tools"] == short["tools"]
    assert long["messages"][: len(short["messages"])] == short["messages"]


def test_every_tool_is_a_function_of_an_object_with_properties() -> None:
    first, second = made(user("Go"))["tools"]
    assert first == {
        "type": "function",
        "function": {
            "name": "exec",
            "description": "Runs.",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
        },
    }
    assert second["function"]["parameters"] == {"type": "object", "properties": {}}


def test_without_tools_and_system_prompt_there_is_neither() -> None:
    request = ModelRequest("openai", "gpt-4.1", " ", (), (user("Go"),))
    arguments = cast("dict[str, Any]", arguments_of(request, DEFAULTS["openai"], {}))
    assert "tools" not in arguments
    assert arguments["messages"] == [{"role": "user", "content": "Go"}]


@pytest.mark.parametrize(
    ("provider", "bound"),
    [
        ("openai", "max_completion_tokens"),
        ("azure-openai", "max_completion_tokens"),
        ("deepseek", "max_tokens"),
        ("ollama", "max_tokens"),
        ("fireworks", "max_tokens"),
    ],
)
def test_the_bound_of_the_answer_has_the_name_that_the_provider_knows(provider: str, bound: str) -> None:
    arguments = made(user("Go"), provider=provider, model="any")
    assert arguments[bound] == 8192
    assert len({"max_tokens", "max_completion_tokens"} & set(arguments)) == 1


def test_openai_is_told_to_keep_nothing() -> None:
    assert made(user("Go"))["store"] is False
    assert "store" not in made(user("Go"), provider="ollama")


def test_reasoning_has_room_beside_the_answer() -> None:
    arguments = made(user("Go"), model="gpt-5-mini")
    assert arguments["reasoning_effort"] == "low"
    assert arguments["max_completion_tokens"] == 8192 + 4096
