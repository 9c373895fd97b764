"""What looks like a key in a header, and what does not."""

import pytest

from perstackd.adapters.definition.credentials import looks_like_key


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Bearer abc"),
        ("authorization", "Basic dXNlcjpwYXNz"),
        ("Proxy-Authorization", "xyz"),
        ("X-Api-Key", "0815"),
        ("x-acme-token", "t"),
        ("Cookie", "session=1"),
        ("x-any", "sk-" + "a" * 20),
        ("x-any", "ghp_" + "a1" * 10),
        ("x-any", "AKIA" + "A" * 16),
        ("x-any", "a1" * 16),
        ("Authorization", "Bearer ${TOKEN} ghp_" + "a1" * 10),
    ],
)
def test_a_literal_that_should_be_a_secret_is_seen(header: str, value: str) -> None:
    assert looks_like_key(header, value)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Bearer ${TOKEN}"),
        ("Authorization", "${TOKEN}"),
        ("Authorization", "Bearer "),
        ("Cookie", "session=${SESSION}; theme=dark"),
        ("x-team", "blue"),
        ("x-trace", "550e8400-e29b-41d4-a716-446655440000"),
        ("accept", "application/vnd.api+json;version=1"),
        ("x-name", "a" * 200),
    ],
)
def test_other_values_are_left_alone(header: str, value: str) -> None:
    assert not looks_like_key(header, value)


def test_a_long_value_is_looked_at_quickly() -> None:
    assert looks_like_key("x", ("a" * 31 + " ") * 256 + "a1" * 16)
    assert not looks_like_key("x", "-a" * 4096)
