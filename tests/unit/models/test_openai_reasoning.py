"""Which model is told what about reasoning."""

from dataclasses import replace

import pytest

from perstackd.adapters.models.openai_reasoning import Reasoning, family_of, reasoning_for, responses_reasoning
from perstackd.adapters.models.openai_settings import Dialect

LEVELS = ("minimal", "low", "medium", "high")


def effort(dialect: Dialect, model: str, wanted: str | int, *, tools: bool = True) -> object:
    return reasoning_for(dialect, model, wanted, tools=tools).arguments.get("reasoning_effort")


def asked(dialect: Dialect, model: str, wanted: str | int) -> Reasoning:
    """What is asked for beside tools, without the words about it."""
    return replace(reasoning_for(dialect, model, wanted, tools=True), note="")


@pytest.mark.parametrize(
    ("dialect", "model", "efforts"),
    [
        (Dialect.OPENAI, "gpt-5", ["minimal", "low", "medium", "high"]),
        (Dialect.OPENAI, "gpt-5-mini-2025-08-07", ["minimal", "low", "medium", "high"]),
        (Dialect.OPENAI, "gpt-5.1", ["low", "low", "medium", "high"]),
        (Dialect.OPENAI, "o3", ["low", "low", "medium", "high"]),
        (Dialect.OPENAI, "o4-mini-2025-04-16", ["low", "low", "medium", "high"]),
        (Dialect.AZURE, "Prod-GPT-5-nano", ["minimal", "low", "medium", "high"]),
        (Dialect.AZURE, "gpt-5-production", ["minimal", "low", "medium", "high"]),
        (Dialect.OLLAMA, "gpt-oss:20b", ["low", "low", "medium", "high"]),
        (Dialect.FIREWORKS, "accounts/fireworks/models/gpt-oss-120b", ["low", "low", "medium", "high"]),
        (Dialect.FIREWORKS, "accounts/fireworks/models/deepseek-v4-pro", ["low", "low", "medium", "high"]),
        (Dialect.DEEPSEEK, "deepseek-v4-pro", ["low", "low", "high", "high"]),
        (Dialect.DEEPSEEK, "deepseek-flash", ["low", "low", "high", "high"]),
        (Dialect.COMPATIBLE, "openai/gpt-oss-20b", ["low", "low", "medium", "high"]),
    ],
)
def test_a_level_becomes_the_effort_that_the_family_takes(dialect: Dialect, model: str, efforts: list[str]) -> None:
    assert [effort(dialect, model, level) for level in LEVELS] == efforts


@pytest.mark.parametrize("model", ["gpt-5.2", "gpt-5.4-mini", "gpt-5.6-sol", "gpt-6-luna", "gpt-6.1-terra"])
def test_a_model_that_takes_no_tools_while_it_reasons_does_not_reason_when_it_has_tools(model: str) -> None:
    assert effort(Dialect.OPENAI, model, "high") == "none"
    assert effort(Dialect.OPENAI, model, "high", tools=False) == "high"
    assert reasoning_for(Dialect.OPENAI, model, "high", tools=True).extra_tokens == 0


@pytest.mark.parametrize(
    ("dialect", "model"),
    [
        *((Dialect.OPENAI, model) for model in ("gpt-4.1", "gpt-4o-mini", "gpt-3.5-turbo", "chatgpt-4o-latest")),
        *((Dialect.OPENAI, model) for model in ("o1-mini", "gpt-5-chat-latest", "gpt-5.2-chat-latest", "gpt-5-pro")),
        *((Dialect.OPENAI, model) for model in ("gpt-5.1-codex", "gpt-5.5-pro-2026-04-23", "my-model", "foo3")),
        *((Dialect.OLLAMA, model) for model in ("llama3.3", "qwen2.5:7b", "gpt-5")),
        *((Dialect.FIREWORKS, model) for model in ("qwen3-coder-480b", "qwen3-235b-instruct", "kimi-k2-instruct")),
        (Dialect.DEEPSEEK, "deepseek-chat"),
        (Dialect.COMPATIBLE, "gpt-5.6-sol"),
    ],
)
@pytest.mark.parametrize("wanted", ["none", 0, "high", 5000])
def test_a_model_that_does_not_reason_or_is_not_known_is_told_nothing(
    dialect: Dialect, model: str, wanted: str | int
) -> None:
    assert asked(dialect, model, wanted) == Reasoning({})


@pytest.mark.parametrize("wanted", ["none", 0])
@pytest.mark.parametrize(
    ("dialect", "model", "said"),
    [
        (Dialect.OPENAI, "gpt-5-mini", Reasoning({"reasoning_effort": "minimal"}, 1024)),
        (Dialect.OPENAI, "o3", Reasoning({"reasoning_effort": "low"}, 4096)),
        (Dialect.OPENAI, "gpt-5.1", Reasoning({"reasoning_effort": "none"})),
        (Dialect.OLLAMA, "qwen3:8b", Reasoning({"reasoning_effort": "none"})),
        (Dialect.OLLAMA, "gpt-oss:20b", Reasoning({"reasoning_effort": "low"}, 4096)),
        (Dialect.DEEPSEEK, "deepseek-v4-flash", Reasoning({"extra_body": {"thinking": {"type": "disabled"}}})),
        (Dialect.DEEPSEEK, "deepseek-reasoner", Reasoning({}, 4096, shown_again=True)),
    ],
)
def test_reasoning_is_turned_off_as_far_as_it_can_be(
    wanted: str | int, dialect: Dialect, model: str, said: Reasoning
) -> None:
    assert asked(dialect, model, wanted) == said


def test_deepseek_is_told_to_think_in_its_own_way() -> None:
    said = reasoning_for(Dialect.DEEPSEEK, "deepseek-v4-pro", "medium", tools=True)
    assert said.arguments == {"reasoning_effort": "high", "extra_body": {"thinking": {"type": "enabled"}}}
    assert said.shown_again


def test_a_model_that_reasons_as_it_likes_has_room_for_it() -> None:
    assert reasoning_for(Dialect.OLLAMA, "qwen3:8b", "high", tools=True) == Reasoning({}, 16384)


@pytest.mark.parametrize(("tokens", "level"), [(1, "minimal"), (5000, "low"), (8000, "medium"), (10**6, "high")])
def test_a_number_of_tokens_is_the_nearest_level(tokens: int, level: str) -> None:
    assert asked(Dialect.OPENAI, "gpt-5", tokens) == asked(Dialect.OPENAI, "gpt-5", level)


def test_a_family_is_found_at_the_start_of_a_word_only() -> None:
    assert family_of(Dialect.OPENAI, "turbo3") is None
    assert family_of(Dialect.OPENAI, "ft:gpt-5-mini:acme") is not None


@pytest.mark.parametrize(
    ("dialect", "model", "wanted", "says"),
    [
        (Dialect.OPENAI, "gpt-5", 5000, "asked for as the effort low: it takes no number"),
        (Dialect.OPENAI, "o3", "minimal", "asked for as the effort low: it has no effort minimal"),
        (Dialect.OPENAI, "o3", "none", "asked for as the effort low: it always reasons"),
        (Dialect.OPENAI, "gpt-5.6-sol", "high", "asked for as none: Chat Completions takes no tools beside it"),
        (Dialect.DEEPSEEK, "deepseek-v4-pro", "medium", "asked for as the effort high"),
        (Dialect.DEEPSEEK, "deepseek-reasoner", "none", "has no effect: the model 'deepseek-reasoner' always reasons"),
        (Dialect.COMPATIBLE, "my-model", 5000, "has no effect: the model 'my-model' is not known to take one"),
    ],
)
def test_reasoning_that_is_asked_for_in_another_form_is_told(
    dialect: Dialect, model: str, wanted: str | int, says: str
) -> None:
    note = reasoning_for(dialect, model, wanted, tools=True).note
    assert says in note
    assert f"reasoningBudget {wanted} " in note


@pytest.mark.parametrize("wanted", ["minimal", "low", "high"])
def test_reasoning_that_is_asked_for_as_it_is_needs_no_note(wanted: str) -> None:
    assert reasoning_for(Dialect.OPENAI, "gpt-5", wanted, tools=True).note == ""
    assert responses_reasoning("gpt-5", wanted).note == ""


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("gpt-5-mini", ["minimal", "low", "medium", "high"]),
        ("gpt-5.6-sol", ["low", "low", "medium", "high"]),
        ("gpt-6.1-terra", ["low", "low", "medium", "high"]),
        ("gpt-5.3-codex", ["low", "low", "medium", "high"]),
        ("gpt-5-pro", ["high", "high", "high", "high"]),
        ("gpt-5.5-pro-2026-04-23", ["medium", "medium", "medium", "high"]),
        ("o4-mini", ["low", "low", "medium", "high"]),
    ],
)
def test_by_the_responses_api_every_family_reasons_beside_tools(model: str, efforts: list[str]) -> None:
    said = [responses_reasoning(model, level).arguments for level in LEVELS]
    assert [one["reasoning"] for one in said] == [{"effort": effort, "summary": "auto"} for effort in efforts]
    assert all(one["include"] == ["reasoning.encrypted_content"] for one in said)


@pytest.mark.parametrize(("model", "effort"), [("gpt-5.6-sol", "none"), ("gpt-5", "minimal"), ("gpt-5-pro", "high")])
def test_by_the_responses_api_reasoning_is_turned_off_as_far_as_it_can_be(model: str, effort: str) -> None:
    said = responses_reasoning(model, "none")
    assert said.arguments == {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": effort}}
    assert bool(said.note) is (effort != "none")


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5-chat-latest", "my-model"])
def test_by_the_responses_api_a_model_that_is_not_known_to_reason_is_told_nothing(model: str) -> None:
    assert responses_reasoning(model, "high") == Reasoning({})
