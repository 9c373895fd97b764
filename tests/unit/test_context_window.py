"""How large a model's context is taken to be, and what is estimated until a provider has counted."""

import pytest
from pydantic import ValidationError

from perstackd.adapters.models.config import ModelsConfig
from perstackd.domain.context_size import IMAGE_TOKENS, parts_tokens, prompt_tokens, text_tokens
from perstackd.domain.context_window import RESERVE, UNKNOWN, ContextWindows
from perstackd.domain.messages import BlobPart, TextPart, ToolCallPart, ToolResultPart, ToolSpec


@pytest.mark.parametrize(
    ("provider", "model", "window"),
    [
        ("anthropic", "claude-sonnet-5-5", 1_000_000),
        ("anthropic", "claude-haiku-4-5-20251001", 200_000),
        ("anthropic", "claude-opus-4-6", 1_000_000),
        ("openai", "gpt-5.4-mini", 272_000),
        ("openai", "gpt-5.4", 900_000),
        ("azure-openai", "gpt-4.1-nano", 1_000_000),
        ("ollama", "qwen3:8b", 32_768),
        ("fireworks", "accounts/fireworks/models/glm-5", UNKNOWN),
    ],
)
def test_the_entry_that_fits_best_counts(provider: str, model: str, window: int) -> None:
    assert ContextWindows().window(provider, model) == window


def test_the_operators_figures_come_first() -> None:
    windows = ModelsConfig(context_tokens={"ollama/qwen3*": 8_000, "anthropic/*": 50_000}).windows()
    assert windows.window("ollama", "qwen3:8b") == 8_000
    assert windows.window("anthropic", "claude-sonnet-5-5") == 50_000
    assert windows.window("openai", "gpt-4o") == 128_000


def test_room_for_an_answer_is_left_whatever_the_ratio() -> None:
    sizes = {"a/large": 100_000, "a/small": 8_000}
    assert ContextWindows(0.75, sizes).compact_at("a", "large") == 75_000
    assert ContextWindows(0.95, sizes).compact_at("a", "large") == 100_000 - RESERVE
    assert ContextWindows(0.95, sizes).compact_at("a", "small") == 6_000
    assert ContextWindows(0.0, sizes).compact_at("a", "large") == 0


@pytest.mark.parametrize("wrong", [{"compact_at": 0.96}, {"compact_at": -1}, {"context_tokens": {"a/b": 10}}])
def test_what_would_make_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelsConfig(**wrong)


def test_an_estimate_is_rather_too_high() -> None:
    assert text_tokens("The quick brown fox jumps over the lazy dog.") >= 10
    assert text_tokens("漢字かな交じり文") >= 8
    assert text_tokens("\ud800") >= 1
    tool = ToolSpec("exec", "Runs a program.", {"type": "object"})
    assert prompt_tokens("You are.", [tool]) > prompt_tokens("You are.", []) > 0


def test_images_count_by_the_piece_and_what_is_only_named_hardly_at_all() -> None:
    image, document, text = (
        BlobPart("sha256:aa", 5 << 20, media_type) for media_type in ("image/png", "application/pdf", "text/plain")
    )
    assert IMAGE_TOKENS <= parts_tokens([image]) < 2 * IMAGE_TOKENS
    assert parts_tokens([document]) > 50_000
    assert parts_tokens([text]) < 100
    result = ToolResultPart("a", (TextPart("x" * 3_000), text))
    assert 1_000 <= parts_tokens([result]) < 1_200
    assert parts_tokens([ToolCallPart("a", "exec", {"text": "x" * 3_000})]) >= 1_000
